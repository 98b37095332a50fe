"""Hashes of all windows of a text, and a table to look them up: the arithmetic below `ngram_index`.

A window is hashed as a polynomial over 64-bit hashes of its words, from one cumulative sum for every length. The table sorts
out nearly all windows of a text by one byte a slot, chosen by the top bits; a sorted array decides. Equal hashes are taken as
equal texts: among 10^9 windows of a corpus and 10^6 of the items a false one has a chance of about 10^-4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]
_BASE = 0xD6E8FEB86659FD93
_INVERSE = pow(_BASE, -1, 1 << 64)
_SLOTS_PER_KEY = 16


class Match(NamedTuple):
    """A window of a part that stands in a text: first token in the part, first token in the text, length."""

    place: int
    start: int
    size: int


class Sums:
    """Hashes of the windows of a sequence of tokens, of any length."""

    _powers: Hashes = np.ones(1, dtype=np.uint64)
    _inverses: Hashes = np.ones(1, dtype=np.uint64)

    def __init__(self, tokens: Hashes) -> None:
        self._grow(len(tokens) + 1)
        self._sums = np.zeros(len(tokens) + 1, dtype=np.uint64)
        np.cumsum(tokens * self._powers[: len(tokens)], out=self._sums[1:])

    def windows(self, size: int) -> Hashes:
        """The hash of every window of this size, in order."""
        count = max(len(self._sums) - size, 0)
        found: Hashes = (self._sums[size:] - self._sums[:count]) * self._inverses[:count]
        return found

    def at(self, starts: Longs, sizes: Longs) -> Hashes:
        """The hashes of the windows of these sizes that start at these tokens."""
        found: Hashes = (self._sums[starts + sizes] - self._sums[starts]) * self._inverses[starts]
        return found

    def __len__(self) -> int:
        return len(self._sums) - 1

    @classmethod
    def _grow(cls, count: int) -> None:
        """Powers of the base, and of its inverse, up to this many: made once, twice as many each time."""
        if count > len(cls._powers):
            size = 1 << count.bit_length()
            cls._powers, cls._inverses = (_powers(base, size) for base in (_BASE, _INVERSE))


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    found: Hashes = np.cumprod(factors, dtype=np.uint64)
    return found


@dataclass(frozen=True)
class Rows:
    """The windows of one part, in order: the hash of how each begins, and of all its `size` tokens."""

    part: int
    size: int
    keys: Hashes
    wholes: Hashes


class NgramTable:
    """Windows by the hash of their first `num_tokens` tokens; `item_of` and `task_of` number item and task of each part."""

    def __init__(self, num_tokens: int, rows: Sequence[Rows], item_of: Longs, task_of: Longs, max_items: int) -> None:
        counts = [len(own.keys) for own in rows]
        parts = np.repeat(np.array([own.part for own in rows], dtype=np.int64), counts)
        wholes = np.concatenate([own.wholes for own in rows])
        kept = np.flatnonzero(~is_template(wholes, item_of[parts], task_of[parts], max_items))
        keys = np.concatenate([own.keys for own in rows])[kept]
        kept = kept[np.argsort(keys, kind="stable")]
        self._num_tokens = num_tokens
        self._keys = np.sort(keys)
        self.parts, self._wholes = parts[kept], wholes[kept]
        self._places = np.concatenate([np.arange(count) for count in counts])[kept]
        self._sizes = np.repeat(np.array([own.size for own in rows], dtype=np.int64), counts)[kept]
        bits = max(len(keys) * _SLOTS_PER_KEY, 2).bit_length()
        self._shift = np.uint64(64 - bits)
        self._slots = np.zeros(1 << bits, dtype=np.bool_)
        self._slots[self._keys >> self._shift] = True

    def find(self, sums: Sums) -> Iterator[tuple[int, Match]]:
        """Every window of the table that stands in a text: the part it belongs to, and where."""
        windows = sums.windows(self._num_tokens)
        starts = np.flatnonzero(self._slots[windows >> self._shift])
        first, last = (np.searchsorted(self._keys, windows[starts], side=side) for side in ("left", "right"))
        counts = last - first
        entries = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        starts = np.repeat(starts, counts)
        inside = starts + self._sizes[entries] <= len(sums)
        entries, starts = entries[inside], starts[inside]
        same = sums.at(starts, self._sizes[entries]) == self._wholes[entries]
        entries, starts = entries[same], starts[same]
        columns = (self.parts[entries], self._places[entries], starts, self._sizes[entries])
        for part, place, start, size in zip(*(column.tolist() for column in columns), strict=True):
            yield part, Match(place, start, size)


def is_template(wholes: Hashes, items: Longs, tasks: Longs, max_items: int) -> npt.NDArray[np.bool_]:
    """Which windows more than `max_items` items of one task share."""
    _, window = np.unique(wholes, return_inverse=True)
    _, first = np.unique(window * (int(items.max(initial=0)) + 1) + items, return_index=True)
    num_tasks = int(tasks.max(initial=0)) + 1
    of_task = window * num_tasks + tasks
    shared, counts = np.unique(of_task[first], return_counts=True)
    found: npt.NDArray[np.bool_] = np.isin(of_task, shared[counts > max_items])
    return found
