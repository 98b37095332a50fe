"""From the samples of a log to its metrics: which scores count, with which weights and clusters, and how they are reduced.

Used by the runner for `scores.json` and by `compare` for the leaderboard, so that both say the same of a log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lianlu.eval import stats
from lianlu.formats.eval_log import EvalLog, MetricSpec, Sample


def summarize_log(log: EvalLog, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Each metric of a log with standard error and 95% interval; what cannot be computed is None."""
    found = {}
    for metric in log.header.metrics:
        summary = stats.summarize(metric_values(metric, log.samples), seed)
        summary = stats.exponential(summary) if metric.aggregate == "exp-mean" else summary
        values = {name: finite(getattr(summary, name)) for name in ("value", "stderr", "low", "high")}
        found[metric.name] = {**values, "n": summary.n, "interval": summary.interval, "higher_is_better": metric.higher_is_better}
    return found


def metric_values(metric: MetricSpec, samples: Sequence[Sample]) -> stats.Values:
    """The scores of a metric with weights and clusters; samples without that score are left out."""
    chosen = [sample for sample in samples if metric.key in sample.scores]
    return stats.make_values(
        [sample.scores[metric.key] for sample in chosen],
        [sample.weights.get(metric.key, 1.0) for sample in chosen],
        [sample.cluster for sample in chosen],
    )


def metric_value(metric: MetricSpec, samples: Sequence[Sample]) -> float:
    """The value of a metric alone."""
    value = stats.mean(metric_values(metric, samples))
    return math.exp(value) if metric.aggregate == "exp-mean" else value


def finite(value: float) -> float | None:
    """The number, or None for what JSON cannot say."""
    return value if math.isfinite(value) else None
