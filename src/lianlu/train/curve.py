"""Reading back what the loop logged: the figures of a finished run come from its files, so a resumed run has them too."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL = 20


@dataclass(frozen=True)
class Curve:
    """The records of one log, in order."""

    records: list[dict[str, Any]]

    def values(self, name: str) -> list[float]:
        """Every value logged under `name`."""
        return [float(record[name]) for record in self.records if name in record]

    def first(self, name: str) -> float:
        """The first value of `name`."""
        return self.values(name)[0]

    def last(self, name: str) -> float:
        """The last value of `name`."""
        return self.values(name)[-1]

    def tail_mean(self, name: str) -> float:
        """The mean of the last values of `name`: a training loss jumps from batch to batch."""
        return statistics.fmean(self.values(name)[-TAIL:])


def read_curve(path: Path) -> Curve:
    """A log that the loop wrote."""
    return Curve([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


def median(curve: Curve, name: str) -> float:
    """The median of `name` over the steps."""
    return statistics.median(curve.values(name))


def share(curve: Curve, part: str, whole: Iterable[str]) -> float:
    """What `part` makes of the sum of `whole`, over all steps; 0 where there was nothing."""
    return sum(curve.values(part)) / (sum(sum(curve.values(name)) for name in whole) or 1.0)


def tokens_per_s(path: Path) -> float:
    """The median rate of the steps in a metrics log."""
    return median(read_curve(path), "tokens_per_s")
