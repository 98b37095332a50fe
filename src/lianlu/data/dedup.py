"""Which documents repeat others: exact duplicates first, near duplicates among the rest; over all chunks, in one process.

Exact: equal but for white space; the first is kept. Near: see `near_dedup`; the longest is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lianlu.data.near_dedup import Hashes, find_duplicates
from lianlu.data.scored import Chunk

Place = tuple[int, int]
"""Number of the chunk, row in it."""


@dataclass(frozen=True)
class Duplicate:
    """Why a document is dropped: the step, the place of the document it repeats, and how similar they are (0..1)."""

    step: str
    kept: Place
    similarity: float


def exact_duplicates(chunks: Sequence[Chunk], places: Sequence[Place]) -> dict[Place, Duplicate]:
    """What each of the documents at `places` repeats, if anything."""
    seen: dict[bytes, Place] = {}
    found: dict[Place, Duplicate] = {}
    for place in places:
        number, row = place
        first = seen.setdefault(chunks[number].exact[row].tobytes(), place)
        if first != place:
            found[place] = Duplicate("exact_dedup", first, 1.0)
    return found


def near_duplicates(chunks: Sequence[Chunk], places: Sequence[Place], min_jaccard: float) -> dict[Place, Duplicate]:
    """The same for near duplicates."""
    lengths = [int(chunks[number].num_bytes[row]) for number, row in places]

    def keys(index: int) -> Hashes:
        number, row = places[index]
        keys: Hashes = chunks[number].bands[row]
        return keys

    def sets(index: int) -> Hashes:
        number, row = places[index]
        return np.asarray(chunks[number].shingles(row))

    decisions = find_duplicates(lengths, keys, sets, min_jaccard)
    return {
        places[index]: Duplicate("near_dedup", places[kept], similarity)
        for index, kept, similarity in decisions
        if kept is not None
    }
