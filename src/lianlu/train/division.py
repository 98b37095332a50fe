"""Who gets which documents of a source, where several parts of a run draw from it.

A part is one phase's demand for tokens, either of any documents or of long ones only. If everything that is asked for fits
into one epoch, the documents are divided: no document is in two parts, so none is seen twice before it has to be. Within each
block the documents are permuted (seeded) and cut by cumulative tokens, first the long ones for the parts that need such, then
what is left in proportion to what the others ask for. If it does not fit, every part draws from all documents that suit it,
each in an order of its own.

A pure function of shard, seed and demands: nothing is written down, and every process finds the same. Dividing reads the
offsets of the whole source once when a run begins: about a second for ten million documents; memory is that of one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lianlu.train.stream import Choice, Index, Source, all_documents, long_documents

PERMUTATION = 1 << 63


@dataclass(frozen=True)
class Part:
    """Tokens wanted of documents longer than `longer_than` tokens (0: of any)."""

    tokens: float
    longer_than: int = 0


class Division:
    """The documents of a source, for each of `parts`; `is_divided` says whether they have none in common."""

    def __init__(self, source: Source, parts: Sequence[Part], seed: int) -> None:
        self._source, self._parts, self._seed = source, tuple(parts), seed
        self._long = {limit: source.tokens_longer_than(limit) for limit in {part.longer_than for part in parts} - {0}}
        self._assigned = lru_cache(maxsize=2)(self._assign)
        self._tokens = self._divided() if len(parts) > 1 and self._fits() else None
        self.is_divided = self._tokens is not None

    def choice(self, number: int) -> Choice:
        """The documents of part `number`."""
        if self._tokens is not None:
            return Choice(lambda block: self._documents(block, number), self._tokens[number])
        limit = self._parts[number].longer_than
        return long_documents(self._source, limit) if limit else all_documents(self._source)

    def _fits(self) -> bool:
        """Whether one epoch is enough for all: for the long parts in long documents, and together."""
        total = self._source.num_tokens
        for limit, tokens in self._long.items():
            if sum(part.tokens for part in self._parts if part.longer_than >= limit) > tokens:
                return False
        return sum(part.tokens for part in self._parts) <= total

    def _divided(self) -> Index | None:
        """Tokens of each part in each block, or None if one that asks for tokens comes away empty."""
        found = np.zeros((len(self._parts), self._source.num_blocks), dtype=np.int64)
        for block in range(self._source.num_blocks):
            documents, owners = self._assigned(block)
            owned = owners >= 0
            np.add.at(found[:, block], owners[owned], self._source.lengths(documents[owned]))
        asked = np.array([part.tokens > 0 for part in self._parts])
        return found if found.sum(axis=1)[asked].all() else None

    def _documents(self, block: int, number: int) -> Index:
        documents, owners = self._assigned(block)
        mine: Index = documents[owners == number]
        return mine

    def _assign(self, block: int) -> tuple[Index, Index]:
        """The documents of a block in rising order, and the part that each belongs to."""
        source = self._source
        documents = source.documents(block)
        sizes = source.lengths(documents)
        order = np.random.Generator(np.random.Philox(key=[self._seed, PERMUTATION | block])).permutation(len(documents))
        order = order[sizes[order] > 0]
        owners = np.full(len(documents), -1)
        numbers = sorted(range(len(self._parts)), key=lambda number: -self._parts[number].longer_than)
        for number in numbers:
            part = self._parts[number]
            if not part.longer_than:
                continue
            free = order[(owners[order] < 0) & (sizes[order] > part.longer_than)]
            before = np.cumsum(sizes[free]) - sizes[free]
            wanted = part.tokens * sizes[sizes > part.longer_than].sum() / self._long[part.longer_than]
            owners[free[before < wanted]] = number
        rest = [(number, part.tokens) for number, part in enumerate(self._parts) if part.tokens and not part.longer_than]
        if rest:
            _share_out(owners, order[owners[order] < 0], sizes, rest)
        return documents, owners


def _share_out(owners: Index, free: Index, sizes: Index, demands: Sequence[tuple[int, float]]) -> None:
    """Give the documents `free` to those who demand, in proportion: each goes where its middle token falls."""
    ends = np.cumsum(sizes[free])
    total = float(ends[-1]) if len(ends) else 0.0
    shares = np.cumsum([demand for _, demand in demands])
    at = np.searchsorted(shares[:-1] / shares[-1] * total, ends - sizes[free] / 2, side="right")
    owners[free] = np.array([number for number, _ in demands])[at]
