"""Which documents repeat others: exact duplicates first, near duplicates among the rest; over all chunks, in one process.

Exact: equal but for white space; the first is kept. Near: see `near_dedup`; the longest is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lianlu.data.dedup import semantic
from lianlu.data.dedup.near_dedup import Hashes, find_duplicates
from lianlu.data.scores.scored import Chunk

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
    if not places:
        return {}
    rows = [np.array([row for own, row in places if own == number], dtype=np.int64) for number in range(len(chunks))]
    lengths = np.concatenate([chunk.num_bytes[own] for chunk, own in zip(chunks, rows, strict=True)])

    def band(number: int) -> Hashes:
        return np.concatenate([chunk.bands[own, number] for chunk, own in zip(chunks, rows, strict=True)])

    def sets(index: int) -> Hashes:
        number, row = places[index]
        return chunks[number].shingles(row)

    found = find_duplicates(lengths, band, sets, min_jaccard)
    return {places[index]: Duplicate("near_dedup", places[kept], similarity) for index, kept, similarity in found}


def semantic_duplicates(chunks: Sequence[Chunk], places: Sequence[Place], min_cosine: float) -> dict[Place, Duplicate]:
    """The same for texts that say the same in other words; `places` are in order."""
    wanted = set(places)
    texts = (
        document.text
        for number, chunk in enumerate(chunks)
        for row, document in enumerate(chunk.documents())
        if (number, row) in wanted
    )
    lengths = np.array([chunks[number].num_bytes[row] for number, row in places], dtype=np.int64)
    found = semantic.find_duplicates(lengths, semantic.tfidf_vectors(texts), min_cosine)
    return {places[index]: Duplicate("semantic_dedup", places[kept], cosine) for index, kept, cosine in found}
