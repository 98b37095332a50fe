"""Which survivors repeat others: exact duplicates first, near duplicates among the rest; over all chunks, in one process.

Exact: equal but for white space; the first is kept. Near: see `near_dedup`; the longest is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lianlu.data.chunks import Chunk
from lianlu.data.near_dedup import Hashes, find_duplicates


@dataclass(frozen=True)
class Duplicate:
    """Why a survivor is dropped: the step, the place of the survivor it repeats, and how similar they are (0..1)."""

    step: str
    kept: int
    similarity: float


def exact_duplicates(chunks: Sequence[Chunk]) -> dict[int, Duplicate]:
    """Place in the order of all survivors -> what it repeats."""
    seen: dict[bytes, int] = {}
    found: dict[int, Duplicate] = {}
    place = 0
    for chunk in chunks:
        for row in chunk.exact:
            first = seen.setdefault(row.tobytes(), place)
            if first != place:
                found[place] = Duplicate("exact_dedup", first, 1.0)
            place += 1
    return found


def near_duplicates(chunks: Sequence[Chunk], gone: dict[int, Duplicate], min_jaccard: float) -> dict[int, Duplicate]:
    """The same for near duplicates, among survivors that are not `gone`."""
    owners = [(chunk, index) for chunk in chunks for index in range(len(chunk))]
    places = [place for place in range(len(owners)) if place not in gone]
    lengths = [int(owners[place][0].num_bytes[owners[place][1]]) for place in places]

    def keys(number: int) -> Hashes:
        chunk, index = owners[places[number]]
        keys: Hashes = chunk.bands[index]
        return keys

    def sets(number: int) -> Hashes:
        chunk, index = owners[places[number]]
        return np.asarray(chunk.shingles(index))

    decisions = find_duplicates(lengths, keys, sets, min_jaccard)
    return {
        places[number]: Duplicate("near_dedup", places[kept], similarity)
        for number, kept, similarity in decisions
        if kept is not None
    }
