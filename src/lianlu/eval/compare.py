"""STAGE compare: several models on the same tasks, item by item.

Reads the logs of evaluations and writes `leaderboard.json`: each score with its interval, and for each later model
against the first and against the one before it the paired difference with a bootstrap interval, an exact p value, and the
items that changed, with examples. Logs whose items or protocol differ are marked as not comparable, and no difference is
given. The p values are per pair and metric: with twenty of them, one below 0.05 is to be expected.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Config, EvalLog
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import write_json
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.eval import stats
from lianlu.eval.metrics import finite, metric_values, summarize_log
from lianlu.formats import eval_log
from lianlu.formats.eval_log import MetricSpec, Sample

MAX_EXAMPLES = 3
MAX_EXAMPLE_CHARACTERS = 600
ALPHA = 0.05

Logs = Mapping[str, eval_log.EvalLog]


class CompareConfig(Config):
    """Which evaluations are laid side by side."""

    logs: list[EvalLog] = Field(min_length=1)
    """Outputs of eval steps; the first is the one the others are compared with."""
    names: list[str] = Field(default_factory=list)
    """A label for each of them (default: model 1, model 2, ...)."""
    seed: int = 0
    """Seed of the bootstrap."""


def estimate(config: CompareConfig) -> Estimate:
    """Reading a few logs."""
    return Estimate(1.0 + len(config.logs), 200_000_000, "reading logs")


def run(config: CompareConfig, out: Output) -> None:
    """Compare; writes leaderboard.json. Raises: ConfigError, DataError."""
    names = config.names or [f"model {number}" for number in range(1, len(config.logs) + 1)]
    if len(names) != len(config.logs) or len(set(names)) != len(names):
        what = f"{len(config.names)} names for {len(config.logs)} logs" if len(names) != len(config.logs) else "two equal names"
        raise ConfigError(f"compare: {what}", hint="give each log a name of its own, in the same order")
    models = {name: _read(Path(folder)) for name, folder in zip(names, config.logs, strict=True)}
    board = leaderboard(models, config.seed)
    write_json(out.path / "leaderboard.json", board)
    for task, entry in board["tasks"].items():
        main = entry["main"]
        for row in entry["metrics"][main]["values"]:
            out.figures[f"{task}.{main}.{row['name']}"] = row["value"]


def leaderboard(models: Mapping[str, Logs], seed: int = 0) -> dict[str, Any]:
    """The leaderboard of models, each a table of logs by task. Raises: DataError if no task has been given to two of them."""
    tasks = list(dict.fromkeys(task for logs in models.values() for task in logs))
    if len(models) > 1 and not any(sum(task in logs for logs in models.values()) > 1 for task in tasks):
        raise DataError("the logs have no task in common", hint="evaluate the models on the same tasks")
    entries = {task: _task({name: logs[task] for name, logs in models.items() if task in logs}, seed) for task in tasks}
    return {"format": 1, "names": list(models), "tasks": entries}


def _read(folder: Path) -> dict[str, eval_log.EvalLog]:
    logs = [eval_log.read_log(path) for path in eval_log.log_paths(folder)]
    return {log.header.task: log for log in logs}


def _task(logs: Logs, seed: int) -> dict[str, Any]:
    first = next(iter(logs.values())).header
    summaries = {name: summarize_log(log, seed) for name, log in logs.items()}
    metrics: dict[str, Any] = {}
    for metric in first.metrics:
        rows = [{"name": name, **summary[metric.name]} for name, summary in summaries.items() if metric.name in summary]
        pairs = [_pair(one, two, logs, metric, seed) for one, two in _pairs(list(logs))]
        metrics[metric.name] = {"higher_is_better": metric.higher_is_better, "values": rows, "pairs": pairs}
    return {"dataset": first.dataset, "main": first.metrics[0].name, "metrics": metrics, "hashes": _hashes(logs)}


def _hashes(logs: Logs) -> list[dict[str, str]]:
    return [
        {"name": name, "dataset": log.header.dataset_hash[:12], "protocol": log.header.protocol_hash[:12]}
        for name, log in logs.items()
    ]


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each later one against the first, then each against the one before it, without doubles."""
    against_first = [(names[0], name) for name in names[1:]]
    return list(dict.fromkeys([*against_first, *itertools.pairwise(names)]))


def why_not(one: eval_log.Header, two: eval_log.Header) -> str:
    """Why two logs cannot be compared, or an empty text."""
    if one.dataset_hash != two.dataset_hash:
        return "they were asked different items"
    if one.protocol_hash != two.protocol_hash:
        keys = sorted(key for key in {*one.protocol, *two.protocol} if one.protocol.get(key) != two.protocol.get(key))
        return f"the protocols differ ({', '.join(keys) or 'metrics'})"
    return ""


def _pair(one: str, two: str, logs: Logs, metric: MetricSpec, seed: int) -> dict[str, Any]:
    reason = why_not(logs[one].header, logs[two].header)
    if reason:
        console.warn(f"{logs[one].header.task}: {one} and {two} are not compared: {reason}")
        return {"first": one, "second": two, "comparable": False, "reason": reason}
    before, after = [[s for s in logs[name].samples if metric.key in s.scores] for name in (one, two)]
    if [sample.id for sample in before] != [sample.id for sample in after]:
        raise DataError(
            f"{logs[one].header.task}: equal hashes but different samples", hint="a log was changed by hand: evaluate again"
        )
    values = [metric_values(metric, samples) for samples in (before, after)]
    gap = stats.compare(values[0], values[1], exp=metric.aggregate == "exp-mean", seed=seed)
    gains = [
        (b.scores[metric.key] - a.scores[metric.key]) * (1 if metric.higher_is_better else -1)
        for a, b in zip(before, after, strict=True)
    ]
    return {
        "first": one,
        "second": two,
        "comparable": True,
        **{name: finite(getattr(gap, name)) for name in ("difference", "low", "high", "p")},
        "test": gap.test,
        "n": gap.n,
        "significant": gap.p < ALPHA and (gap.low > 0 or gap.high < 0),
        "improved": sum(gain > 0 for gain in gains),
        "worsened": sum(gain < 0 for gain in gains),
        "flips": _examples(before, after, gains, metric),
    }


def _examples(
    before: Sequence[Sample], after: Sequence[Sample], gains: Sequence[float], metric: MetricSpec
) -> list[dict[str, Any]]:
    """The largest changes to the better and to the worse, at most MAX_EXAMPLES of each."""
    order = sorted(range(len(gains)), key=lambda index: -gains[index])
    better = [index for index in order[:MAX_EXAMPLES] if gains[index] > 0]
    worse = [index for index in order[::-1][:MAX_EXAMPLES] if gains[index] < 0]
    return [
        {
            "id": before[index].id,
            "better": gains[index] > 0,
            "input": _short(before[index].input),
            "target": _short(before[index].target),
            "scores": [sample.scores[metric.key] for sample in (before[index], after[index])],
            "outputs": [_short("\n".join(sample.outputs)) for sample in (before[index], after[index])],
        }
        for index in [*better, *worse]
    ]


def _short(text: str) -> str:
    return text if len(text) <= MAX_EXAMPLE_CHARACTERS else text[: MAX_EXAMPLE_CHARACTERS - 3] + "..."
