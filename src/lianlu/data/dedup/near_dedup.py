"""Near duplicates by MinHash (Broder 1997), every removal verified against a document that is kept.

Shingles are 5-grams of words (CJK: of characters; code: see `code.tokens`), hashed to 64 bits; 128 hash functions, 16 bands
of 8 rows: a pair of Jaccard similarity 0.7 shares a band with probability 0.61, one of 0.8 with 0.95, one of 0.5 with 0.06.
Documents are taken from the longest to the shortest (the first of equals first). One that shares a band with a kept document
and has a true Jaccard similarity of at least the threshold with it is dropped. So nothing is removed by transitivity, and the
outcome does not depend on chunks or workers. The hash functions are multiply-shift on 64 bits with constants by SplitMix64.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

SHINGLE_WORDS = 5
NUM_BANDS = 16
NUM_ROWS = 8
NUM_HASHES = NUM_BANDS * NUM_ROWS
_BLOCK = 1024
MAX_KEPT = 256
MAX_COMPARED = 64
"""Kept documents remembered for one key, and compared with one document: what a template shared by thousands may cost."""
Hashes = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]


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


def shingles(tokens: Sequence[str]) -> Hashes:
    """The set of a text's shingles as sorted 64-bit hashes, from its words as they are compared; empty for none."""
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
    lengths: Longs, band: Callable[[int], Hashes], sets: Callable[[int], Hashes], min_jaccard: float
) -> Iterator[tuple[int, int, float]]:
    """The documents to drop: (document, the kept one it repeats, their similarity), from the longest to the shortest.

    `band(b)` gives the keys of band b for all documents, `sets(i)` the shingles of document i. Memory is a few words a
    document for one band at a time, and more only for documents that share a key with another.
    """
    order = np.lexsort((np.arange(len(lengths)), -lengths))
    groups = _collisions(band, order)
    kept: defaultdict[int, list[int]] = defaultdict(list)
    for index, own_groups in groups:
        own = sets(index)
        if not len(own):
            continue
        shared = Counter(other for group in own_groups for other in kept[group])
        found = next(_verified(own, (other for other, _ in shared.most_common(MAX_COMPARED)), sets, min_jaccard), None)
        if found:
            yield index, *found
            continue
        for group in own_groups:
            if len(kept[group]) < MAX_KEPT:
                kept[group].append(index)


def _collisions(band: Callable[[int], Hashes], order: Longs) -> Iterator[tuple[int, list[int]]]:
    """Documents that share a key with another one, in this order, with the numbers of the groups that share one."""
    members, groups, count = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for number in range(NUM_BANDS):
        own, numbers = _shared(band(number))
        members.append(own)
        groups.append(numbers + count)
        count += int(numbers[-1]) + 1 if len(numbers) else 0
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    all_members, all_groups = np.concatenate(members), np.concatenate(groups)
    sorting = np.argsort(rank[all_members], kind="stable")
    all_members, all_groups = all_members[sorting], all_groups[sorting]
    starts = np.flatnonzero(np.diff(all_members, prepend=-1))
    for start, end in itertools.pairwise(np.append(starts, len(all_members))):
        yield int(all_members[start]), all_groups[start:end].tolist()


def _shared(keys: Hashes) -> tuple[Longs, Longs]:
    """The places of keys that occur more than once, and for each the number of its key, from 0."""
    sorting = np.argsort(keys, kind="stable")
    ordered = keys[sorting]
    new = np.ones(len(keys), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    alone = new & np.append(new[1:], True)[: len(keys)]
    return sorting[~alone], np.cumsum(new[~alone]) - 1


def _verified(
    own: Hashes, candidates: Iterable[int], sets: Callable[[int], Hashes], min_jaccard: float
) -> Iterator[tuple[int, float]]:
    for other in candidates:
        theirs = sets(other)
        if min(len(own), len(theirs)) >= min_jaccard * max(len(own), len(theirs)):
            similarity = jaccard(own, theirs)
            if similarity >= min_jaccard:
                yield other, similarity
