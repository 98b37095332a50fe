"""Loss spikes: steps whose loss or gradient norm leaps far above the steps before, and what is done about them.

A step is compared with the median of a window before it; its spread is the median absolute deviation, which one earlier
spike does not widen. Such a step can undo hours of training; left out, it costs its own tokens (as in PaLM,
arXiv 2204.02311, section 5.1, where runs were set back and the data skipped). The window is read back from the log of the
run, so that a continued run judges as an unbroken one.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from lianlu.train.config import SpikeConfig

NORMAL_SPREAD = 1.4826
LEAST_RISE = {"loss": 1.3, "grad_norm": 3.0}


class Spikes:
    """The window of one run. `in_a_row` counts the spikes since the last ordinary step."""

    def __init__(self, config: SpikeConfig) -> None:
        self._config = config
        self._past: dict[str, deque[float]] = {name: deque(maxlen=config.window) for name in LEAST_RISE}
        self.in_a_row = 0

    def replay(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take in the steps that a killed run has logged."""
        for record in records:
            if "loss" in record:
                self.note(record, bool(record.get("spike")))

    def judge(self, figures: Mapping[str, float]) -> str:
        """What is wrong with a step of this `loss` and `grad_norm`; empty if nothing is."""
        for name, past in self._past.items():
            value = figures[name]
            if not math.isfinite(value):
                return f"{name} is {value}"
            if len(past) == past.maxlen and value > (limit := self._limit(name)):
                return f"{name} {value:.4g} is above {limit:.4g}, after a median of {statistics.median(past):.4g}"
        return ""

    def note(self, figures: Mapping[str, Any], spike: bool) -> None:
        """Remember a step; spikes do not enter the window."""
        self.in_a_row = self.in_a_row + 1 if spike else 0
        for name, past in self._past.items():
            if not spike and name in figures:
                past.append(float(figures[name]))

    def _limit(self, name: str) -> float:
        past = self._past[name]
        median = statistics.median(past)
        spread = NORMAL_SPREAD * statistics.median(abs(value - median) for value in past)
        return max(median + self._config.deviations * spread, LEAST_RISE[name] * median)
