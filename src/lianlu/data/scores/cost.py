"""What each operator costs: seconds of its own, bytes and documents, added up over workers and written to `logs/`.

    with timed("pii", len(text)): ...      in a worker, about two microseconds a call
    write_chunk(logs, 12)                  when a chunk is done: logs/cost/00012.json, and the counts begin anew
    write_total(logs)                      in the end: logs/cost.json, for the report

Time inside another `timed` counts for the inner one. Work that several operators share (splitting into words) counts for the
first that asks. Times differ between runs, which is why they are kept in `logs/`, beside what is compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lianlu.core.files import write_json
from lianlu.core.store import LOGS

COST = f"{LOGS}/cost.json"
_CHUNKS = "cost"
Costs = dict[str, dict[str, float]]
_spent: Costs = {}
_inner: list[float] = []


@contextmanager
def timed(operator: str, num_bytes: int = 0, documents: int = 1) -> Iterator[None]:
    """Count the block as work of this operator on so many bytes."""
    _inner.append(0.0)
    started = time.perf_counter()
    try:
        yield
    finally:
        whole = time.perf_counter() - started
        add(operator, whole - _inner.pop(), num_bytes, documents)
        if _inner:
            _inner[-1] += whole


def add(operator: str, seconds: float, num_bytes: int = 0, documents: int = 1) -> None:
    """Count work that was timed otherwise."""
    own = _spent.setdefault(operator, {"seconds": 0.0, "bytes": 0, "documents": 0})
    own["seconds"] += seconds
    own["bytes"] += num_bytes
    own["documents"] += documents


def taken() -> Costs:
    """What this process has counted since it was last asked."""
    counted = dict(_spent)
    _spent.clear()
    return counted


def write_chunk(logs: Path, number: int) -> None:
    """Write down what a chunk cost. A chunk that is found finished after a kill keeps its old costs."""
    write_json(logs / _CHUNKS / f"{number:05d}.json", taken())


def write_total(logs: Path) -> Costs:
    """Add up what all chunks cost and what this process has counted; writes and returns it."""
    for path in sorted((logs / _CHUNKS).glob("*.json")):
        for operator, own in json.loads(path.read_text(encoding="utf-8")).items():
            add(operator, own["seconds"], own["bytes"], own["documents"])
    total = taken()
    write_json(logs / Path(COST).name, total)
    return total
