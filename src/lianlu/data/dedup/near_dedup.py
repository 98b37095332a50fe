"""Near duplicates by MinHash (Broder 1997), every removal verified against a document that is kept.

Shingles are 5-grams of words (CJK: of characters; code: see `code.tokens`), hashed to 64 bits; 128 hash functions, 16 bands
of 8 rows: a pair of Jaccard similarity 0.7 shares a band with probability 0.61, one of 0.8 with 0.95, one of 0.5 with 0.06.
Documents are taken from the longest to the shortest (the first of equals first). One that shares a band with a kept document
and has a true Jaccard similarity of at least the threshold with it is dropped. So nothing is removed by transitivity, and the
outcome does not depend on chunks or workers. The hash functions are multiply-shift on 64 bits with constants by SplitMix64.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.data.rules.characters import Hashes, mixed

SHINGLE_WORDS = 5
NUM_BANDS = 16
NUM_ROWS = 8
NUM_HASHES = NUM_BANDS * NUM_ROWS
_BLOCK = 256
MAX_KEPT = 256
MAX_COMPARED = 64
"""Kept documents remembered for one key, and compared with one document: what a template shared by thousands may cost."""
Longs = npt.NDArray[np.int64]
PAIR = np.dtype([("document", "<u4"), ("length", "<i8"), ("group", "<i8")])
"""A document, its length, and a group that it is in."""


def _splitmix(start: int, count: int) -> Hashes:
    """`count` numbers of the SplitMix64 sequence."""
    state = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(start)
    return mixed(state)


_FACTORS = (_splitmix(1, NUM_HASHES) | np.uint64(1))[:, None]
_TERMS = _splitmix(2, NUM_HASHES)[:, None]
_POWER = np.uint64(0xD6E8FEB86659FD93)


def shingles(tokens: Hashes) -> Hashes:
    """The set of a text's shingles as sorted 64-bit hashes, from the hashes of its tokens; empty for none."""
    if not len(tokens):
        return np.empty(0, dtype=np.uint64)
    size = min(SHINGLE_WORDS, len(tokens))
    joined = np.zeros(len(tokens) - size + 1, dtype=np.uint64)
    for place in range(size):
        joined = joined * _POWER + tokens[place : place + len(joined)]
    ordered = np.sort(mixed(joined))
    distinct: Hashes = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return distinct


def signature(hashes: Hashes) -> npt.NDArray[np.uint32]:
    """MinHash signature (128) of a set of shingles that is not empty."""
    lowest = np.full(NUM_HASHES, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        products = _FACTORS * hashes[start : start + _BLOCK]
        products += _TERMS
        np.minimum(lowest, products.min(axis=1), out=lowest)
    return (lowest >> np.uint64(32)).astype(np.uint32)


def bands(hashes: Hashes) -> Hashes:
    """The 16 band keys of a set of shingles that is not empty: equal keys make two documents candidates."""
    rows = signature(hashes).astype(np.uint64).reshape(NUM_BANDS, NUM_ROWS)
    keys = np.arange(NUM_BANDS, dtype=np.uint64)
    for row in range(NUM_ROWS):
        keys = mixed(keys * _POWER + rows[:, row])
    return keys


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over size of the union of two sets (sorted arrays without repeats)."""
    shared = int(np.isin(a, b, assume_unique=True).sum()) if len(a) <= len(b) else int(np.isin(b, a, assume_unique=True).sum())
    return shared / max(len(a) + len(b) - shared, 1)


def shared(keys: Hashes) -> tuple[Longs, Longs]:
    """The places of keys that occur more than once, those of one key together, and for each the number of its key, from 0."""
    sorting = np.argsort(keys, kind="stable")
    ordered = keys[sorting]
    new = np.ones(len(keys), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    del ordered
    alone = new & np.append(new[1:], True)[: len(keys)]
    return sorting[~alone], np.cumsum(new[~alone]) - 1


def find_duplicates(
    pairs: npt.NDArray[Any], sets: Callable[[int], Hashes], min_jaccard: float
) -> Iterator[tuple[int, int, float]]:
    """The documents to drop: (document, the kept one it repeats, their similarity), from the longest to the shortest.

    `pairs` (of kind `PAIR`) are all documents that share keys with others, each with its length, once for each group of
    documents that share a key; `sets` gives the shingles of a document, which are not none.
    """
    numbers, groups = np.unique(pairs["group"], return_inverse=True)
    order = np.lexsort((groups, pairs["document"], -pairs["length"]))
    documents, groups = pairs["document"][order], groups[order]
    kept = _Kept(np.bincount(groups, minlength=len(numbers)))
    starts = np.flatnonzero(np.diff(documents.astype(np.int64), prepend=-1))
    for start, end in itertools.pairwise([*starts.tolist(), len(documents)]):
        document, own_groups = int(documents[start]), groups[start:end].tolist()
        met = Counter(other for group in own_groups for other in kept.of(group))
        found = (
            _verified(sets(document), (other for other, _ in met.most_common(MAX_COMPARED)), sets, min_jaccard) if met else None
        )
        if found:
            yield document, *found
            continue
        for group in own_groups:
            kept.add(group, document)


class _Kept:
    """The first documents kept in each group, `MAX_KEPT` at most, in one array."""

    def __init__(self, sizes: Longs) -> None:
        room = np.minimum(sizes, MAX_KEPT)
        self._ends = np.cumsum(room)
        self._next = self._ends - room
        self._firsts = self._next.copy()
        self._documents = np.empty(int(room.sum()), np.uint32)

    def of(self, group: int) -> list[int]:
        """Those of one group, in the order they were kept."""
        documents: list[int] = self._documents[self._firsts[group] : self._next[group]].tolist()
        return documents

    def add(self, group: int, document: int) -> None:
        """Keep another one, if there is room."""
        if self._next[group] < self._ends[group]:
            self._documents[self._next[group]] = document
            self._next[group] += 1


def _verified(
    own: Hashes, candidates: Iterable[int], sets: Callable[[int], Hashes], min_jaccard: float
) -> tuple[int, float] | None:
    """The first of the candidates that is similar enough, and how similar it is."""
    for other in candidates:
        theirs = sets(other)
        if min(len(own), len(theirs)) >= min_jaccard * max(len(own), len(theirs)):
            similarity = jaccard(own, theirs)
            if similarity >= min_jaccard:
                return other, similarity
    return None
