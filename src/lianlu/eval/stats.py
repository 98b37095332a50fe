"""How sure a score is, and whether two scores differ.

A score is a weighted mean over items. Its standard error treats clusters of items as the units that were drawn
(Liang and Zeger 1986; Miller 2024, "Adding Error Bars to Evals"); with clusters of one and weights of one it is the
usual s / sqrt(n). The 95% interval is Wilson's for independent yes/no scores and a percentile bootstrap over clusters
for everything else. Two models are compared on the same items: a paired bootstrap of the difference, and an exact sign
test over clusters, which for independent yes/no scores is McNemar's exact test. Random draws are seeded, so that equal
inputs give equal numbers. Below some 20 clusters every one of these intervals is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Z_95 = 1.959963984540054
NUM_RESAMPLES = 2000
CHUNK_BYTES = 16_000_000


@dataclass(frozen=True)
class Values:
    """Scores of one metric over items: values, weights, and the number of the cluster each item is in."""

    values: Array
    weights: Array
    clusters: NDArray[np.int64]

    @property
    def num_clusters(self) -> int:
        return int(self.clusters.max()) + 1 if len(self.clusters) else 0

    @property
    def is_binary(self) -> bool:
        """Independent, unweighted, and nothing but 0 and 1."""
        alone = self.num_clusters == len(self.values)
        return alone and bool(np.all(self.weights == 1)) and bool(np.all((self.values == 0) | (self.values == 1)))

    def cluster_sums(self, amounts: Array) -> Array:
        """`amounts` added up per cluster."""
        return np.bincount(self.clusters, weights=amounts, minlength=self.num_clusters).astype(np.float64)


@dataclass(frozen=True)
class Summary:
    """A score with its uncertainty; `interval` names the method of `low` and `high`."""

    value: float
    stderr: float
    low: float
    high: float
    n: int
    interval: str


@dataclass(frozen=True)
class Difference:
    """Second minus first on the same items; `test` names the method of `p`; `n` counts items."""

    difference: float
    low: float
    high: float
    p: float
    test: str
    n: int


def make_values(values: Sequence[float], weights: Sequence[float] | None = None, clusters: Sequence[str] | None = None) -> Values:
    """Arrays from lists; an empty cluster name means that the item stands alone. Weights have to be positive."""
    numbers: dict[str | int, int] = {}
    names = clusters or [""] * len(values)
    index = [numbers.setdefault(name or position, len(numbers)) for position, name in enumerate(names)]
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(values) == len(weight) == len(index):
        raise ValueError("values, weights and clusters have to be of one length")
    if np.any(weight <= 0):
        raise ValueError("weights have to be positive")
    return Values(np.asarray(values, dtype=np.float64), weight, np.asarray(index, dtype=np.int64))


def mean(data: Values) -> float:
    """The weighted mean (not a number without items)."""
    return float(np.sum(data.weights * data.values) / np.sum(data.weights)) if len(data.values) else math.nan


def stderr(data: Values) -> float:
    """Standard error of the weighted mean over clusters, with the G / (G - 1) correction (not a number below two clusters)."""
    groups = data.num_clusters
    if groups < 2:
        return math.nan
    residuals = data.cluster_sums(data.weights * (data.values - mean(data)))
    return math.sqrt(groups / (groups - 1) * float(np.sum(residuals**2))) / float(np.sum(data.weights))


def wilson(successes: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    share, spread = successes / n, z * z / n
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return 0.0 if successes == 0 else center - half, 1.0 if successes == n else center + half


def resampled_means(columns: Sequence[tuple[Array, Array]], seed: int, num_resamples: int = NUM_RESAMPLES) -> list[Array]:
    """Bootstrap ratios sum(a) / sum(b) for each (a, b) of cluster sums; all columns see the same draws."""
    groups = len(columns[0][0])
    rng = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, CHUNK_BYTES // (8 * groups))
    found: list[list[Array]] = [[] for _ in columns]
    for start in range(0, num_resamples, chunk):
        draws = rng.integers(0, groups, size=(min(chunk, num_resamples - start), groups))
        for column, (above, below) in zip(found, columns, strict=True):
            column.append(above[draws].sum(axis=1) / below[draws].sum(axis=1))
    return [np.concatenate(column) for column in found]


def summarize(data: Values, seed: int = 0) -> Summary:
    """Mean, standard error and 95% interval."""
    count, value = len(data.values), mean(data)
    if data.num_clusters < 2:
        return Summary(value, math.nan, math.nan, math.nan, count, "none")
    if data.is_binary:
        low, high = wilson(float(data.values.sum()), count)
        return Summary(value, stderr(data), low, high, count, "wilson")
    sums = (data.cluster_sums(data.weights * data.values), data.cluster_sums(data.weights))
    low, high = _percentiles(resampled_means([sums], seed)[0])
    return Summary(value, stderr(data), low, high, count, "bootstrap")


def exponential(summary: Summary) -> Summary:
    """The summary of exp(score): the interval is mapped, the standard error follows by the delta method."""
    value = math.exp(min(summary.value, 700.0))
    low, high = (math.exp(min(edge, 700.0)) for edge in (summary.low, summary.high))
    return Summary(value, summary.stderr * value, low, high, summary.n, summary.interval)


def compare(first: Values, second: Values, *, exp: bool = False, seed: int = 0) -> Difference:
    """Difference of two weighted means over the same items in the same order (`exp`: of their exponentials)."""
    if not np.array_equal(first.clusters, second.clusters):
        raise ValueError("a paired comparison needs the same items in the same order")
    change = np.exp if exp else np.positive
    gap = float(change(mean(second)) - change(mean(first)))
    steps = second.cluster_sums(second.weights * second.values) / second.cluster_sums(second.weights)
    steps = steps - first.cluster_sums(first.weights * first.values) / first.cluster_sums(first.weights)
    test = "mcnemar exact" if first.is_binary and second.is_binary else "sign test"
    p = sign_test(int(np.sum(steps > 0)), int(np.sum(steps < 0)))
    if first.num_clusters < 2:
        return Difference(gap, math.nan, math.nan, p, test, len(first.values))
    columns = [(data.cluster_sums(data.weights * data.values), data.cluster_sums(data.weights)) for data in (first, second)]
    before, after = resampled_means(columns, seed)
    low, high = _percentiles(change(after) - change(before))
    return Difference(gap, low, high, p, test, len(first.values))


def sign_test(ups: int, downs: int) -> float:
    """Exact two-sided p value of `ups` against `downs` under a fair coin; ties are left out before."""
    total, fewer = ups + downs, min(ups, downs)
    term = tail = 1
    for k in range(1, fewer + 1):
        term = term * (total - k + 1) // k
        tail += term
    return min(1.0, float(Fraction(2 * tail, 2**total)))


def _percentiles(draws: Array) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
