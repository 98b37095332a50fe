"""The visible side of a sequence: ids become text, stop strings end it, end tokens stay silent.

Stop strings are looked for in the text, not in the ids, so that one may begin and end inside tokens. What could still
become a stop string is held back, and nothing of a stop string is ever shown.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Sequence
from lianlu.engine.timing import Timeline
from lianlu.kernels.sampling import Draw, uniform
from lianlu.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lianlu.engine.rules import Rules

MOST = 32
PATIENCE = 16


class Stream(Protocol):
    """Incremental decoding, as `Tokenizer.stream` gives it."""

    def push(self, token_id: int, /) -> str: ...

    def flush(self) -> str: ...


class Output:
    """Text of one reply. `stopped` says that a stop string was found; nothing may be pushed after that."""

    def __init__(self, stream: Stream, stops: ReadSequence[str]) -> None:
        self._stream = stream
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that may be shown after one more id."""
        return self._release(self._stream.push(token_id), last=False)

    def flush(self) -> str:
        """The text that was held back, when no more ids come."""
        return "" if self.stopped else self._release(self._stream.flush(), last=True)

    def _release(self, text: str, last: bool) -> str:
        if not self._stops:
            return text
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = 0 if last else max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


@dataclass(slots=True)
class Luck:
    """How well proposals for one sequence come true, and so how many to make: more after success, fewer after failure.

    At zero, one token is proposed every `PATIENCE` times, as luck may change.
    """

    width: int
    _idle: int = 0

    def num_tokens(self) -> int:
        """How many to propose now."""
        if self.width:
            return self.width
        self._idle = (self._idle + 1) % PATIENCE
        return int(self._idle == 0)

    def note(self, num_proposed: int, num_accepted: int) -> None:
        """Learn from what became of proposals."""
        if num_accepted == num_proposed:
            self.width = min(max(2 * self.width, 1), MOST)
        else:
            self.width = (self.width + num_accepted) // 2


@dataclass(slots=True, eq=False)
class Live:
    """A live request: its sequence, its text, the seed of its draws, what its tokens have to keep to, and its clock."""

    sequence: Sequence
    output: Output
    seed: int
    rules: Rules | None
    timeline: Timeline
    luck: Luck

    @property
    def is_drawn(self) -> bool:
        """Whether its tokens are drawn at all; greedy ones are not."""
        return self.sequence.request.sampling.temperature > 0

    def draw(self, ahead: int = 0) -> Draw:
        """How the token after the known ones and `ahead` proposals is drawn."""
        wanted = self.sequence.request.sampling
        place = self.sequence.num_generated + ahead
        return Draw(wanted.temperature, wanted.top_k, wanted.top_p, uniform(self.seed, place), wanted.min_p)


class TokenTexts:
    """Texts of single tokens for log-probabilities, control tokens spelled out; remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        text = self._known.get(token_id)
        if text is None:
            text = self._known[token_id] = self._tokenizer.decode([token_id], skip_specials=False)
        return text

    def logprob(self, token_id: int, logprob: float, alternatives: ReadSequence[tuple[int, float]]) -> TokenLogprob:
        """A token's log-probability and those of its alternatives, with texts instead of ids."""
        return TokenLogprob(self[token_id], logprob, tuple((self[index], value) for index, value in alternatives))
