"""Logistic regression on sparse counts in plain numpy: L-BFGS (Nocedal 1980) on a convex loss, so the order of texts is moot.

A feature is the share of a text's n-grams that fall into a bucket, divided by the square root of the mean share: frequent and
rare n-grams then vary alike, and the penalty treats them alike. Both labels weigh the same, however many texts each has.
No BLAS and no threads: the same texts give the same weights to the bit on the same machine. Memory: 8 bytes for each
different n-gram of each text, and a few times the number of buckets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lianlu.data.filters.ngrams import NgramSettings, hashed, pieces

Floats = npt.NDArray[np.float64]
MEMORY = 10
MAX_STEPS = 200
TOLERANCE = 1e-5
"""Training ends when no component of the gradient is larger than this share of the largest at the start."""
MIN_TEXTS = 2
"""Buckets found in fewer texts than this get no weight."""


@dataclass(frozen=True)
class Counts:
    """Shares of n-grams, row by row: `buckets` and `shares` of row i begin at `starts[i]` and are never empty."""

    buckets: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    num_buckets: int

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The row of each entry."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.buckets))))


def counted(texts: Sequence[str], settings: NgramSettings) -> Counts:
    """The shares of n-grams in each text."""
    buckets, shares, lengths = [], [], []
    for text in texts:
        own = [
            grams.buckets[grams.starts[0] : grams.ends[-1]] for _, piece in pieces([text]) for grams in hashed(piece, settings)
        ]
        found, counts = np.unique(np.concatenate(own), return_counts=True)
        if not len(found):  # a row is never empty: nothing is a share of 0 in bucket 0
            found, counts = np.zeros(1, np.uint32), np.zeros(1, np.int64)
        buckets.append(found.astype(np.int64))
        shares.append((counts / max(counts.sum(), 1)).astype(np.float32))
        lengths.append(len(found))
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    return Counts(np.concatenate(buckets), np.concatenate(shares), starts, 1 << settings.bits)


def fit(counts: Counts, is_positive: npt.NDArray[np.bool_], penalty: float) -> tuple[Floats, float]:
    """Weight of each bucket (for shares of n-grams) and bias; the logit of a text is their product sum plus the bias."""
    known, columns, spread = _columns(counts)
    rows, values = counts.rows, counts.shares * spread[columns]
    signs = np.where(is_positive, 1.0, -1.0)
    parts = np.where(is_positive, 0.5 / max(is_positive.sum(), 1), 0.5 / max((~is_positive).sum(), 1))

    def loss(point: Floats) -> tuple[float, Floats]:
        weights = point[:-1]
        margins = signs * (np.add.reduceat(values * weights[columns], counts.starts) + point[-1])
        slopes = -signs * parts / (1 + np.exp(np.clip(margins, -60, 60)))
        own = np.bincount(columns, weights=values * slopes[rows], minlength=len(spread)) + penalty * weights
        value = (parts * np.logaddexp(0, -margins)).sum() + penalty / 2 * (weights * weights).sum()
        return float(value), np.append(own, slopes.sum())

    point = minimised(loss, np.zeros(len(spread) + 1))
    weights = np.full(counts.num_buckets, point[-2] * spread[-1])
    weights[known] = (point[:-1] * spread)[: len(known)]
    return weights, float(point[-1])


def _columns(counts: Counts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """The buckets that get a weight; the column of each entry; the factor of each column, 0 for one last column of the rest."""
    texts = np.bincount(counts.buckets, minlength=counts.num_buckets)
    known = np.flatnonzero(texts >= min(MIN_TEXTS, len(counts.starts)))
    numbers = np.full(counts.num_buckets, len(known))
    numbers[known] = np.arange(len(known))
    columns = numbers[counts.buckets]
    mean = np.bincount(columns, weights=counts.shares, minlength=len(known) + 1) / len(counts.starts)
    return known, columns, 1 / np.sqrt(np.maximum(mean, 1e-12))


def minimised(loss: Callable[[Floats], tuple[float, Floats]], point: Floats) -> Floats:
    """The point of least loss; `loss` gives value and gradient of a convex function."""
    value, slope = loss(point)
    first = np.abs(slope).max()
    steps: deque[tuple[Floats, Floats]] = deque(maxlen=MEMORY)
    for _ in range(MAX_STEPS):
        if np.abs(slope).max() <= TOLERANCE * first:
            break
        towards = _direction(slope, steps)
        drop = (towards * slope).sum()
        length = 1.0 if steps else 1 / max(float(np.sqrt((slope * slope).sum())), 1e-300)
        for _ in range(30):
            new_value, new_slope = loss(point + length * towards)
            if new_value <= value + 1e-4 * length * drop:
                break
            length /= 2
        else:
            break
        moved, bent = length * towards, new_slope - slope
        if (moved * bent).sum() > 0:
            steps.append((moved, bent))
        point, value, slope = point + moved, new_value, new_slope
    return point


def _direction(slope: Floats, steps: deque[tuple[Floats, Floats]]) -> Floats:
    """Where to go: minus the gradient, times an inverse Hessian guessed from the last steps."""
    towards = -slope
    shares = []
    for moved, bent in reversed(steps):
        share = (moved * towards).sum() / (moved * bent).sum()
        towards = towards - share * bent
        shares.append(share)
    if steps:
        moved, bent = steps[-1]
        towards = towards * ((moved * bent).sum() / (bent * bent).sum())
    for (moved, bent), share in zip(steps, reversed(shares), strict=True):
        towards = towards + (share - (bent * towards).sum() / (moved * bent).sum()) * moved
    return towards
