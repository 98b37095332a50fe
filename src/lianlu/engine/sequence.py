"""The nouns of the engine: what is asked (`Request`), what is known of it (`Sequence`), what is told about it (`Event`).

One invariant runs the engine: the computed tokens of a sequence chase its known tokens. A new prompt, a chunk of a long
one, a step of decoding, a prefix found in the cache and a preempted sequence that comes back differ only in how far
`num_computed` lies behind `len(tokens)`; whoever closes the gap gets a new token, which opens it by one again.

    QUEUED -> RUNNING <-> PREEMPTED -> FINISHED | CANCELLED | FAILED        (cancel is legal in every live state)

No tensors and no HTTP in this file.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from lianlu.client.base import Sampling, TokenLogprob
from lianlu.core.errors import LianluError

FinishReason = Literal["stop", "length", "cancelled", "error"]


class State(Enum):
    """Where a sequence is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


LIVE = frozenset({State.QUEUED, State.RUNNING, State.PREEMPTED})
NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.PREEMPTED, State.FINISHED, State.CANCELLED, State.FAILED}),
    State.PREEMPTED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
}


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids to continue, and how.

    `adapter` names a loaded adapter ("": none). `session` names a conversation whose keys and values are kept ("": none).
    Requests with different `salt` share no blocks. `deadline_s` is how long the first token may take, None: as the
    engine's configuration says. `ignore_eos` goes on after an end token.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    ignore_eos: bool = False
    adapter: str = ""
    session: str = ""
    salt: str = ""
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one request went; seconds. `queued + prefill + preempted + decode = total`, but for rounding.

    `prefill_s` runs from the first admission to the first token, `decode_s` from there to the end, without the time in
    which the sequence was preempted. `computing_s` is the part of it in which steps ran that had this sequence in them,
    `share_s` its share of those by tokens.
    """

    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    preempted_s: float = 0.0
    total_s: float = 0.0
    computing_s: float = 0.0
    share_s: float = 0.0
    num_steps: int = 0
    num_preempted: int = 0
    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def first_token_s(self) -> float:
        """From submission to the first token."""
        return self.queued_s + self.prefill_s


@dataclass(frozen=True, slots=True)
class Event:
    """News about one request; events of one request follow each other, the last one has a `finish_reason`.

    `text` is what may be shown now (text that might become a stop string is held back), so that the texts of all events
    make the reply. `token_ids` and `logprobs` are those chosen since the last event, end token included; `logprobs` is
    empty unless asked for. `error` is set when `finish_reason` is "error". The last event carries `timings`.
    """

    request_id: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: LianluError | None = None
    timings: Timings | None = None

    @staticmethod
    def joined(events: ReadSequence[Event]) -> Event:
        """Events of one request, in their order, as one."""
        if len(events) == 1:
            return events[0]
        return replace(
            events[-1],
            text="".join(event.text for event in events),
            token_ids=tuple(token for event in events for token in event.token_ids),
            logprobs=tuple(item for event in events for item in event.logprobs),
        )

    def merged(self, later: Event) -> Event:
        """This event and a `later` one of the same request as one."""
        return Event.joined((self, later))


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way: its known tokens, how many of them are computed, and the blocks that hold their keys and values."""

    id: int
    request: Request
    max_len: int
    """Known tokens at which generation ends: prompt, new tokens and the room there is."""
    root: bytes = b""
    """What the chained digests begin with: sequences with different roots share no blocks."""
    tokens: list[int] = field(init=False)
    drafts: list[int] = field(default_factory=list)
    """Tokens proposed to follow the known ones; computed with the last known token, then kept or dropped."""
    num_computed: int = 0
    num_cached: int = 0
    """Prompt tokens that were found in the prefix cache at first admission."""
    num_preempted: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """Chained digests of the full blocks of `tokens`, as far as they were needed."""
    num_published: int = 0
    state: State = State.QUEUED

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def num_pending(self) -> int:
        """Known tokens that are not computed yet; 1 while decoding."""
        return len(self.tokens) - self.num_computed

    def span(self, start: int, end: int) -> list[int]:
        """Tokens `start:end`, the proposed ones after the known ones."""
        known = self.tokens[start:end]
        size = len(self.tokens)
        return known if end <= size else known + self.drafts[max(start - size, 0) : end - size]

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    def to(self, state: State) -> None:
        """Go to another state; only the moves drawn above are legal."""
        assert state in NEXT.get(self.state, ()), f"sequence {self.id} cannot go from {self.state} to {state}"
        self.state = state
