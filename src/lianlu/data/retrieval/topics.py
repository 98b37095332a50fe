"""Vectors of documents without a model, and topics among them (used by `enrich`).

TF-IDF over terms hashed to 4096 columns with signs (Weinberger et al. 2009), turned to the main directions of the seeds by a
singular value decomposition (LSA, Deerwester et al. 1990). Topics are spherical k-means, begun with seeds far from each other,
so that equal input gives equal topics. Vectors know words, not meanings: synonyms are near only if the seeds use them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.data.retrieval.bm25 import Counts, Floats, Longs

COLUMNS = 4096
_FITTED = 2000
_ROUNDS = 50
Vectors = npt.NDArray[np.float64]


class Embedding:
    """Turns documents into vectors of at most `size` numbers; fitted on the first 2000 of the seeds."""

    def __init__(self, terms: Sequence[str], idf: Floats, seeds: Counts, size: int = 64) -> None:
        hashes = np.array([xxhash.xxh3_64_intdigest(term.encode()) for term in terms], dtype=np.uint64)
        self._columns = (hashes % np.uint64(COLUMNS)).astype(np.int64)
        self._weights = np.where(hashes >> np.uint64(63), 1.0, -1.0) * idf
        self._most = float(idf.max(initial=0.0))
        self._axes = np.linalg.svd(self._sparse(seeds.block(0, min(len(seeds), _FITTED))), full_matrices=False)[2][:size].T

    def __call__(self, counts: Counts) -> Vectors:
        """The vectors of documents: shorter than 1 by what of a document points elsewhere than the seeds do."""
        found: Vectors = self._sparse(counts) @ self._axes
        return found

    def _sparse(self, counts: Counts) -> Vectors:
        """TF-IDF by column; terms that no seed has count fully in the length, so that a document full of them is near nothing."""
        places = counts.rows * COLUMNS + self._columns[counts.terms]
        weights = (1 + np.log(counts.counts)) * self._weights[counts.terms]
        rows = np.bincount(places, weights=weights, minlength=len(counts) * COLUMNS).reshape(len(counts), COLUMNS)
        unknown = counts.lengths - np.bincount(counts.rows, weights=counts.counts, minlength=len(counts))
        norms = np.sqrt((rows * rows).sum(axis=1) + unknown * self._most**2)
        found: Vectors = rows / np.maximum(norms, 1e-12)[:, None]
        return found


def unit(rows: Vectors) -> Vectors:
    """Rows of length 1; zeros stay."""
    found: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found


def clusters(vectors: Vectors, count: int) -> Longs:
    """The cluster of each unit vector, numbered from 0 without a gap; at most `count`."""
    centres = vectors[_far_apart(vectors, count)]
    labels = np.argmax(vectors @ centres.T, axis=1)
    for _ in range(_ROUNDS):
        centres = unit(np.stack([vectors[labels == label].sum(axis=0) for label in np.unique(labels)]))
        moved = np.argmax(vectors @ centres.T, axis=1)
        if np.array_equal(moved, labels):
            break
        labels = moved
    found: Longs = np.unique(labels, return_inverse=True)[1]
    return found


def _far_apart(vectors: Vectors, count: int) -> list[int]:
    """Rows far from each other: that nearest to the middle, then each time the one farthest from all chosen."""
    chosen = [int(np.argmax(vectors @ vectors.sum(axis=0)))]
    nearest = vectors @ vectors[chosen[0]]
    while len(chosen) < count and nearest.min() < 1 - 1e-9:
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return chosen


def names(terms: Sequence[str], idf: Floats, seeds: Counts, labels: Longs, num_words: int = 4) -> list[str]:
    """For each cluster the terms that weigh more in it than elsewhere, as one string."""
    weights = idf[seeds.terms] * (1 + np.log(seeds.counts))
    number = int(labels.max(initial=-1)) + 1
    sums = np.bincount(labels[seeds.rows] * len(terms) + seeds.terms, weights=weights, minlength=number * len(terms))
    means = sums.reshape(number, len(terms)) / np.bincount(labels, minlength=number)[:, None]
    shares = np.argsort(-(means - means.mean(axis=0)), axis=1, kind="stable")[:, :num_words]
    return [" ".join(terms[term] for term in row) for row in shares]
