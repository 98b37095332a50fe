"""What is known of a training run from its folder, finished or still at work: curves, spikes, pace, memory, samples.

Read from logs/metrics.jsonl, logs/run.json and samples.jsonl as train/journal.py writes them. The page draws it, and
`lianlu show` prints it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.apps.report.curves import read_metrics, series
from lianlu.apps.report.plot import plot, smoothed
from lianlu.core.console import format_bytes, format_seconds, format_value
from lianlu.core.errors import DataError

Points = list[tuple[float, float]]
# steps whose median says how fast the run is now
RECENT = 20
SHOWN_SAMPLES = 3
SHOWN_TEXT = 160
# what a step logs besides what is evaluated
OF_STEPS = ("loss", "grad_norm", "lr", "tokens", "tokens_per_s", "seconds", "wait_s", "wait_share", "mfu")
MEMORY = ("memory_bytes", "peak_memory_bytes")


@dataclass(frozen=True)
class Training:
    """The logs of one run."""

    rows: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    facts: dict[str, Any]

    @property
    def held_out_names(self) -> list[str]:
        """Figures that were evaluated, in the order of their first appearance."""
        known = {"step", "spike", *OF_STEPS, *MEMORY}
        return [name for name in self.names if name not in known and not name.startswith("phase")]

    @property
    def names(self) -> list[str]:
        """Every figure with a number."""
        found = dict.fromkeys(name for row in self.rows for name, value in row.items() if isinstance(value, int | float))
        return [name for name in found if name != "step"]

    @property
    def last_step(self) -> int:
        """Steps done."""
        return int(max((row["step"] for row in self.rows if "step" in row), default=0))

    def series(self, name: str) -> Points:
        """(step, value) of a figure."""
        return series(self.rows, name)

    def spikes(self) -> Points:
        """(step, loss) of the steps that were taken for spikes."""
        return [(float(row["step"]), float(row.get("loss", math.nan))) for row in self.rows if row.get("spike")]

    def recent(self, name: str) -> float | None:
        """The median of a figure over the last steps."""
        values = [value for _, value in self.series(name)][-RECENT:]
        return statistics.median(values) if values else None

    def seconds_left(self) -> float | None:
        """Time to the last step at the pace of the last ones, evaluation not counted."""
        total, step_s = self.facts.get("num_steps"), self.recent("seconds")
        if not isinstance(total, int) or step_s is None:
            return None
        return max(total - self.last_step, 0) * (step_s + (self.recent("wait_s") or 0.0))


def read_training(folder: Path) -> Training | None:
    """The logs in the folder of a run or artifact, None if it has none of training."""
    rows = read_metrics(folder / "logs" / "metrics.jsonl")
    if not any("step" in row for row in rows):
        return None
    try:
        facts = json.loads((folder / "logs" / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    return Training(rows, read_metrics(folder / "samples.jsonl"), facts if isinstance(facts, dict) else {})


def describe(training: Training, metric: str = "", width: int = 80) -> list[str]:
    """The run in lines of text: its curve, where it stands, and its last samples. Raises: DataError for an unknown metric."""
    return [*curve_lines(training, metric, width), "", *standing(training), *sample_lines(training, width)]


def curve_lines(training: Training, metric: str = "", width: int = 80) -> list[str]:
    """A curve with its legend: the loss with held-out figures and spikes, or one metric by name."""
    if metric and metric not in training.names:
        raise DataError(f"the run has no figure {metric}", hint=f"it has {', '.join(training.names)}")
    name = metric or "loss"
    points = training.series(name)
    parts = max(width, 20)
    letters: dict[str, Points] = {}
    legend = [name + (", smoothed" if len(points) > parts else "")]
    if name == "loss":
        spikes = training.spikes()
        points = [point for point in points if point not in spikes]
        for other in training.held_out_names[:1]:
            if other.endswith("loss"):
                letters["o"] = training.series(other)
                legend.append(f"o {other}")
        if spikes:
            # at the top: where they lie would squeeze the curve
            letters["x"] = [(step, math.nan) for step, _ in spikes]
            legend.append(f"x spikes ({len(spikes)})")
    drawn = plot(smoothed(points, parts) if len(points) > 2 else points, letters, width)
    return [f"{'   '.join(legend)}", *drawn, _ends(name, points)] if drawn else []


def standing(training: Training) -> list[str]:
    """Where the run stands: steps, held-out figures, pace, utilisation, memory, time left."""
    total = training.facts.get("num_steps")
    parts = [f"step {training.last_step:,}" + (f" of {total:,}" if isinstance(total, int) else "")]
    if (rate := training.recent("tokens_per_s")) is not None:
        parts.append(f"{rate:,.0f} tokens/s")
    if (mfu := training.recent("mfu")) is not None:
        parts.append(f"MFU {mfu:.1%}")
    if (peak := training.recent("peak_memory_bytes")) is not None:
        parts.append(f"memory {format_bytes(peak)}" + _planned(training))
    if (wait := training.recent("wait_share")) is not None:
        parts.append(f"waits for data {wait:.1%}")
    if left := training.seconds_left():
        parts.append(f"{format_seconds(left)} left")
    lines = ["   ".join(parts)]
    for name in training.held_out_names:
        lines.append(_ends(name, training.series(name)))
    return lines


def sample_lines(training: Training, width: int = 80) -> list[str]:
    """The last text samples, a line each."""
    if not training.samples:
        return []
    last = training.samples[-1].get("step")
    rows = [row for row in training.samples if row.get("step") == last][-SHOWN_SAMPLES:]
    lines = [f"samples after step {last}:"]
    for row in rows:
        prompt, text = (" ".join(str(row.get(name, "")).split()) for name in ("prompt", "text"))
        lines.append(f"  {prompt[-width // 2 :]!r} -> {text[:SHOWN_TEXT]!r}")
    return ["", *lines]


def _planned(training: Training) -> str:
    planned = training.facts.get("planned_memory_bytes")
    return f" ({format_bytes(planned)} planned)" if isinstance(planned, int | float) and planned else ""


def _ends(name: str, points: Sequence[tuple[float, float]]) -> str:
    values = [value for _, value in points]
    return f"{name} {format_value(values[0])} -> {format_value(values[-1])}" if values else name
