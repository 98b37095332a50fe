"""What a run writes down as it goes: losses.jsonl, samples.jsonl and logs/metrics.jsonl, and the live line.

losses.jsonl and samples.jsonl are functions of configuration and data alone, equal in every run; rates, times and memory are
in metrics.jsonl. Of several processes only the main one writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.core.console import Bar, MetricsLog
from lianlu.core.store import Output
from lianlu.train.config import TrainConfig
from lianlu.train.curve import read_curve
from lianlu.train.parallel.layout import Layout


@dataclass(frozen=True)
class StepWork:
    """What a step cost: tokens of all processes, seconds of computing, and seconds of waiting for its data."""

    num_tokens: int
    seconds: float
    wait_s: float


class Journal:
    """The logs of one run."""

    def __init__(self, out: Output, config: TrainConfig, layout: Layout) -> None:
        self.paths: tuple[Path, ...] = (out.path / "losses.jsonl", out.path / "samples.jsonl", out.logs / "metrics.jsonl")
        self._losses, self._samples, self._metrics = (MetricsLog(path) for path in self.paths)
        self._writes = layout.is_main

    def steps(self) -> list[dict[str, Any]]:
        """Records of the steps logged so far."""
        return [record for record in read_curve(self.paths[0]).records if "loss" in record]

    def step(self, step: int, figures: Mapping[str, Any], work: StepWork, bar: Bar) -> None:
        """Note a step, counted from 1."""
        if not self._writes:
            return
        rate = work.num_tokens / (work.seconds + work.wait_s)
        self._losses.write(step=step, **figures)
        times = {"tokens_per_s": rate, "seconds": work.seconds, "wait_s": work.wait_s}
        self._metrics.write(step=step, **figures, tokens=work.num_tokens, **times)
        bar.advance(1, loss=figures["loss"], tokens_per_s=rate)

    def figures(self, step: int, figures: Mapping[str, float], bar: Bar) -> None:
        """Note what was evaluated after `step` steps."""
        if not self._writes:
            return
        self._losses.write(step=step, **figures)
        self._metrics.write(step=step, **figures)
        bar.advance(0, **figures)

    def sample(self, step: int, sample: Mapping[str, Any]) -> None:
        """Note a text sample."""
        if self._writes:
            self._samples.write(step=step, **sample)

    def close(self) -> None:
        """Nothing more will come."""
