"""Near duplicates by MinHash (Broder 1997), every removal verified against a document that is kept.

Shingles are 5-grams of words (of characters in CJK), hashed to 64 bits; 128 hash functions, 16 bands of 8 rows: a pair of
Jaccard similarity 0.7 shares a band with probability 0.61, one of 0.8 with 0.95, one of 0.5 with 0.06. Documents are taken
from the longest to the shortest (the first of equals first). One that shares a band with a kept document and has a true
Jaccard similarity of at least the threshold with it is dropped. So nothing is removed by transitivity, and the outcome
does not depend on chunks or workers. The hash functions are multiply-shift on 64 bits with constants by SplitMix64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.data.textview import TextView

SHINGLE_WORDS = 5
NUM_BANDS = 16
NUM_ROWS = 8
NUM_HASHES = NUM_BANDS * NUM_ROWS
_BLOCK = 1024
Hashes = npt.NDArray[np.uint64]


def _splitmix(start: int, count: int) -> Hashes:
    """`count` numbers of the SplitMix64 sequence."""
    state = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(start)
    return mixed(state)


def mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_FACTORS = (_splitmix(1, NUM_HASHES) | np.uint64(1))[:, None]
_TERMS = _splitmix(2, NUM_HASHES)[:, None]
_POWER = np.uint64(0xD6E8FEB86659FD93)


def shingles(view: TextView) -> Hashes:
    """The set of a text's shingles as sorted 64-bit hashes; empty for a text without a word."""
    tokens = view.tokens()
    if not tokens:
        return np.empty(0, dtype=np.uint64)
    numbers = {token: xxhash.xxh3_64_intdigest(token.encode()) for token in set(tokens)}
    hashes = np.fromiter(map(numbers.__getitem__, tokens), np.uint64, len(tokens))
    size = min(SHINGLE_WORDS, len(tokens))
    joined = np.zeros(len(tokens) - size + 1, dtype=np.uint64)
    for place in range(size):
        joined = joined * _POWER + hashes[place : place + len(joined)]
    return np.unique(mixed(joined))


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


def find_duplicates(
    lengths: Sequence[int], keys: Callable[[int], Hashes], sets: Callable[[int], Hashes], min_jaccard: float
) -> Iterator[tuple[int, int | None, float]]:
    """Decide about each document, longest first: (document, the kept one it repeats or None, their similarity).

    `keys(i)` gives the band keys and `sets(i)` the shingles of document i; both are asked for as needed.
    """
    buckets: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        own: Any = sets(index)
        if not len(own):
            yield index, None, 0.0
            continue
        places = keys(index).tolist()
        candidates = dict.fromkeys(other for place in places for other in buckets.get(place, ()))
        found = next(_verified(own, candidates, sets, min_jaccard), None)
        if found is None:
            for place in places:
                buckets[place].append(index)
        yield (index, *found) if found else (index, None, 0.0)


def _verified(
    own: Hashes, candidates: dict[int, None], sets: Callable[[int], Hashes], min_jaccard: float
) -> Iterator[tuple[int, float]]:
    for other in candidates:
        theirs = sets(other)
        if min(len(own), len(theirs)) >= min_jaccard * max(len(own), len(theirs)):
            similarity = jaccard(own, theirs)
            if similarity >= min_jaccard:
                yield other, similarity
