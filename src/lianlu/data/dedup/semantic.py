"""Semantic near duplicates: texts that say the same in other words, found by vectors (SemDeDup, arXiv 2303.09540).

Vectors need no model: hashed TF-IDF reduced by a randomised SVD (Halko, Martinsson & Tropp 2011, arXiv 0909.4061), that is
latent semantic analysis. Spherical k-means puts them into clusters, each text into its two nearest, and texts are compared
within these: from the longest to the shortest (the first of equals first), one whose cosine with a kept text reaches the
threshold is dropped. So each removal names a kept text and nothing goes by transitivity; seeds are fixed, and on one machine
equal texts give equal decisions.

Limits: optional, after `near_dedup`, which finds equal wording far cheaper. All vectors are in memory (1 KB a text, and 12
bytes a different word of each text while they are made). TF-IDF knows words and no synonyms: it finds reordered and edited
texts, and takes texts made of the same template for equal, so look at what goes. With fewer
texts than `RANK` nothing is reduced and cosines are those of plain TF-IDF, which are lower (0.7 to 0.8 for two versions of a
text that a larger collection puts at 0.97).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.data.rules.textview import TextView

NUM_FEATURES = 1 << 18
RANK = 256
OVERSAMPLING = 16
POWER_STEPS = 2
MIN_CAUGHT = 0.1
"""Least length, of 1, that has to be left of a text in the reduced space; of what is below, the direction is noise."""
CLUSTER_TEXTS = 256
MAX_CLUSTERS = 1024
KMEANS_STEPS = 10
NEAREST = 2
SEED = 5
_BLOCK = 4096
Vectors = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]


def tfidf_vectors(texts: Iterable[str], rank: int = RANK) -> Vectors:
    """A vector of length 1 for each text; cosines are those of TF-IDF, reduced to `rank`.

    It is 0 for a text without a word, and for one that has next to nothing in common with the rest.
    """
    matrix = _tfidf(texts)
    if 0 in matrix.shape:
        return np.zeros((matrix.shape[0], 1), np.float32)
    reduced = _reduced(matrix, rank)
    reduced[np.linalg.norm(reduced, axis=1) < MIN_CAUGHT] = 0
    return unit(reduced)


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Rows at length 1; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def find_duplicates(lengths: Longs, vectors: Vectors, min_cosine: float) -> Iterator[tuple[int, int, float]]:
    """The texts to drop: (text, the kept one it repeats, their cosine), from the longest to the shortest.

    `vectors` are of length 1; a row of zeros repeats nothing. Of several kept texts the nearest is named.
    """
    home = _clusters(vectors)
    kept: list[list[int]] = [[] for _ in range(int(home.max(initial=-1)) + 1)]
    for index in np.lexsort((np.arange(len(lengths)), -lengths)).tolist():
        others = np.array(sorted({other for cluster in home[index].tolist() for other in kept[cluster]}), dtype=np.int64)
        if len(others) and vectors[index].any():
            cosines = vectors[others] @ vectors[index]
            best = int(cosines.argmax())
            if cosines[best] >= min_cosine:
                yield index, int(others[best]), float(cosines[best])
                continue
        for cluster in set(home[index].tolist()):
            kept[cluster].append(index)


def _tfidf(texts: Iterable[str]) -> Any:
    """A sparse matrix, a row a text, rows of length 1; weights are (1 + log count) * log((1 + n) / (1 + texts with it)) + 1."""
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    numbers: dict[str, int] = {}
    ends, columns, counts = [0], [], []
    for text in texts:
        found = Counter(_feature(word, numbers) for word in _words(text))
        columns.append(np.fromiter(found.keys(), np.int64, len(found)))
        counts.append(np.fromiter(found.values(), np.float64, len(found)))
        ends.append(ends[-1] + len(found))
    empty = np.empty(0)
    column, count = np.concatenate([empty.astype(np.int64), *columns]), np.concatenate([empty, *counts])
    used, column = np.unique(column, return_inverse=True)
    inverse = np.log((1 + len(columns)) / (1 + np.bincount(column, minlength=len(used)))) + 1
    weights = (1 + np.log(count)) * inverse[column]
    norms = np.sqrt([np.square(weights[start:end]).sum() for start, end in pairwise(ends)])
    weights /= np.repeat(np.where(norms > 0, norms, 1), np.diff(ends))
    matrix = csr_matrix((weights, column, ends), shape=(len(columns), len(used)))
    matrix.sort_indices()
    return matrix


def _words(text: str) -> list[str]:
    """Words, and pairs of neighbours where a word is one CJK character, which alone says little."""
    view = TextView(text)
    words = view.tokens()
    return words + [a + b for a, b in pairwise(words)] if view.script else words


def _feature(word: str, numbers: dict[str, int]) -> int:
    number = numbers.get(word)
    if number is None:
        number = numbers[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "replace")) % NUM_FEATURES
    return number


def _reduced(matrix: Any, rank: int) -> npt.NDArray[np.float64]:
    """The rows of a sparse matrix in the coordinates of its first `rank` right singular vectors, nearly."""
    width = min(rank + OVERSAMPLING, *matrix.shape)
    sample = np.random.Generator(np.random.Philox(key=SEED)).standard_normal((matrix.shape[1], width))
    basis, _ = np.linalg.qr(matrix @ sample)
    for _ in range(POWER_STEPS):
        basis, _ = np.linalg.qr(matrix @ (matrix.T @ basis))
    small = matrix.T @ basis
    squares, turned = np.linalg.eigh(small.T @ small)
    rows: npt.NDArray[np.float64] = basis @ (turned * np.sqrt(np.maximum(squares, 0)))[:, -rank:]
    return rows


def _clusters(vectors: Vectors) -> Longs:
    """The nearest clusters of each vector, by spherical k-means from vectors drawn at random."""
    count = min(MAX_CLUSTERS, -(-len(vectors) // CLUSTER_TEXTS))
    if count <= NEAREST:
        return np.zeros((len(vectors), 1), dtype=np.int64)
    drawn = np.random.Generator(np.random.Philox(key=SEED)).choice(len(vectors), count, replace=False)
    centres = vectors[np.sort(drawn)]
    for _ in range(KMEANS_STEPS):
        nearest = _nearest(vectors, centres, 1)[:, 0]
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        centres = np.where(sums.any(axis=1, keepdims=True), unit(sums), centres)
    return _nearest(vectors, centres, NEAREST)


def _nearest(vectors: Vectors, centres: Vectors, count: int) -> Longs:
    """Numbers of the `count` nearest centres of each vector, a block at a time."""
    found = [np.empty((0, count), dtype=np.int64)]
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ centres.T
        found.append(np.argsort(-cosines, axis=1, kind="stable")[:, :count])
    return np.concatenate(found)
