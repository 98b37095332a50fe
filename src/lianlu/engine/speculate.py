"""Proposals: tokens that probably follow, to be checked by the model in one step instead of one step each.

A drafter proposes, `choose` keeps what the model would have said itself. So a drafter decides about speed only, never about the
reply. How much is proposed for a sequence follows its luck: as much as allowed while proposals come true, ever less while
they do not. Rows that are checked for nothing cost time once a step is bound by arithmetic, so nothing is proposed while
many sequences run.

Sources: prompt lookup decoding (Saxena 2023), speculative decoding (Leviathan et al. 2023). Accepting a proposal exactly when it
is the token that the sequence's own draw gives keeps the distribution, as each token is drawn from the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as ReadSequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lianlu.engine.config import NgramSpeculation
from lianlu.engine.output import Live
from lianlu.engine.scheduler import Chunk, Scheduler

Ids = NDArray[np.int64]
MAX_ROWS = 32
"""Rows of decoding sequences and their proposals in one step, beyond which nothing is proposed (arithmetic binds from there)."""


class Drafter(Protocol):
    """Proposes tokens for sequences that have one token left to compute."""

    num_tokens: int

    def follow(self, chunks: ReadSequence[Chunk]) -> None:
        """Take note of what the model has just computed."""

    def propose(self, lives: ReadSequence[Live], counts: ReadSequence[int]) -> None:
        """Put up to that many tokens into `sequence.drafts` of each; there are blocks for them."""

    def forget(self, live: Live) -> None:
        """A request has ended."""

    def clear(self, for_good: bool = False) -> None:
        """Forget all."""


class NgramDrafter:
    """Proposes what followed the last tokens when they occurred before, the latest of the longest matches."""

    def __init__(self, config: NgramSpeculation) -> None:
        self.num_tokens = config.num_tokens
        self._longest, self._shortest = config.longest_match, min(config.shortest_match, config.longest_match)
        self._tokens: dict[int, _Growing] = {}

    def follow(self, chunks: ReadSequence[Chunk]) -> None:
        """Nothing has to be computed."""

    def propose(self, lives: ReadSequence[Live], counts: ReadSequence[int]) -> None:
        """Look up each sequence in itself."""
        for live, count in zip(lives, counts, strict=True):
            sequence = live.sequence
            seen = self._tokens.setdefault(sequence.id, _Growing()).upto(sequence.tokens)
            sequence.drafts = self._following(seen)[:count]

    def _following(self, tokens_T: Ids) -> list[int]:
        """What followed the latest occurrence of the longest end that occurred before."""
        places = np.flatnonzero(tokens_T[:-1] == tokens_T[-1])
        best: list[int] = []
        for size in range(1, self._longest + 1):
            if size >= self._shortest and len(places):
                place = int(places[-1])
                best = [int(token) for token in tokens_T[place + 1 : place + 1 + self.num_tokens]]
            if not len(places) or size >= len(tokens_T):
                break
            places = places[places >= size]
            places = places[tokens_T[places - size] == tokens_T[-1 - size]]
        return best

    def forget(self, live: Live) -> None:
        """Drop what is remembered of it."""
        self._tokens.pop(live.sequence.id, None)

    def clear(self, for_good: bool = False) -> None:
        """Drop everything."""
        self._tokens.clear()


class _Growing:
    """A growing list of token ids as an array, so that looking through it needs no Python for each token."""

    def __init__(self) -> None:
        self._array = np.empty(1024, dtype=np.int64)
        self._size = 0

    def upto(self, tokens: ReadSequence[int]) -> Ids:
        """All of `tokens`, of which earlier calls have seen a beginning."""
        if len(tokens) > len(self._array):
            self._array = np.resize(self._array, 2 * len(tokens))
        self._array[self._size : len(tokens)] = tokens[self._size :]
        self._size = len(tokens)
        return self._array[: self._size]


def propose(drafter: Drafter | None, scheduler: Scheduler, lives: Mapping[int, Live]) -> None:
    """Propose tokens for the sequences that decode, as long as they are few.

    What a constraint leaves no choice about is proposed without a drafter; what it forbids is struck from proposals.
    """
    decoding = [lives[sequence.id] for sequence in scheduler.running if sequence.num_pending == 1]
    most = MAX_ROWS // len(decoding) - 1 if decoding else 0
    open_ends = [live for live in decoding if not (most and _force(live, scheduler, most))]
    if drafter is None:
        return
    wanted = [(live, num_wanted(live, min(drafter.num_tokens, most))) for live in open_ends]
    reserved = [(live, scheduler.reserve(live.sequence, count)) for live, count in wanted if count > 0]
    reserved = [(live, count) for live, count in reserved if count > 0]
    if reserved:
        drafter.propose([live for live, _ in reserved], [count for _, count in reserved])
    for live, _ in reserved:
        if live.rules is not None and live.sequence.drafts:
            del live.sequence.drafts[live.rules.num_valid(live.sequence.drafts) :]


def _force(live: Live, scheduler: Scheduler, most: int) -> bool:
    """Propose what the rules of a sequence leave no choice about; whether there is such a thing."""
    forced = [] if live.rules is None else live.rules.forced()[: min(most, _room(live))]
    if forced:
        live.sequence.drafts = forced[: scheduler.reserve(live.sequence, len(forced))]
    return bool(forced)


def _room(live: Live) -> int:
    """Tokens that may be proposed until the reply is at its longest."""
    return max(0, live.sequence.max_len - len(live.sequence.tokens) - 1)


def num_wanted(live: Live, most: int) -> int:
    """How many tokens to propose for a sequence: no more than its luck and the room to its end allow."""
    return min(live.luck.num_tokens(), most, _room(live))
