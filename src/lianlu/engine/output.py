"""The visible side of a sequence: ids become text, stop strings end it, end tokens stay silent.

Stop strings are looked for in the text, not in the ids, so that one may begin and end inside tokens. What could still
become a stop string is held back, and nothing of a stop string is ever shown.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass
from typing import Protocol

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Sequence
from lianlu.kernels.sampling import Draw, uniform
from lianlu.tokenizer.tokenizer import Tokenizer


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


@dataclass(slots=True, eq=False)
class Live:
    """A live request: its sequence, its text, and the seed of its draws."""

    sequence: Sequence
    output: Output
    seed: int

    def draw(self) -> Draw:
        """How its next token is drawn."""
        wanted = self.sequence.request.sampling
        return Draw(wanted.temperature, wanted.top_k, wanted.top_p, uniform(self.seed, self.sequence.num_generated))


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
