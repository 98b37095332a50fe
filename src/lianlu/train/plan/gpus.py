"""GPU kinds by name: peaks and memory from gpus.toml. Imports no torch."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One kind: peak FLOP/s of dense products by number type, memory in bytes, and memory bandwidth in bytes a second."""

    title: str
    pattern: str
    flops: dict[str, float]
    memory_bytes: int
    bandwidth: float
    planned: bool


@cache
def gpus() -> tuple[Gpu, ...]:
    """Every kind of gpus.toml, in its order."""
    table = tomllib.loads(resources.files("lianlu.train.plan").joinpath("gpus.toml").read_text(encoding="utf-8"))
    return tuple(_read(row) for row in table.values())


def find_gpu(name: str) -> Gpu | None:
    """The kind that a driver calls `name` (`NVIDIA H100 80GB HBM3`), None for one that is not in the table."""
    return next((gpu for gpu in gpus() if re.search(gpu.pattern, name)), None)


def _read(row: dict[str, Any]) -> Gpu:
    flops = {precision: row[precision] * 1e12 for precision in ("bfloat16", "float32")}
    return Gpu(row["title"], row["pattern"], flops, int(row["memory"] * GIB), row["bandwidth"] * 1e9, row["planned"])
