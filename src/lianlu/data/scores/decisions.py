"""Decisions on disk, beside the documents that were read: `decisions/00012.parquet` in the order of `scored/00012.*`.

A row is the id of a document and the rule it broke (empty: it was kept) with value, threshold (both as JSON) and, for a
duplicate, the id of the document it repeats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.core.files import atomic_write
from lianlu.data.rules.thresholds import Verdict

DECISIONS = "decisions"
COLUMNS = ("id", "rule", "value", "threshold", "repeats")


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one document; no verdict: it was kept. `repeats` is the id of the document that a duplicate repeats."""

    id: str
    verdict: Verdict | None = None
    repeats: str = ""

    @property
    def step(self) -> str:
        """The step that dropped it, or empty."""
        return self.verdict.rule.split(".")[0] if self.verdict else ""


def write_decisions(folder: Path, number: int, decisions: Sequence[Decision]) -> None:
    """Write the decisions about one chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(decision) for decision in decisions]
    table = pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS})
    with atomic_write(_file(folder, number)) as file:
        pq.write_table(table, file, compression="zstd")


def read_decision(folder: Path, number: int, row: int) -> Decision:
    """The decision about one document of a chunk."""
    import pyarrow.parquet as pq

    found = pq.read_table(_file(folder, number)).slice(row, 1).to_pylist()[0]
    if not found["rule"]:
        return Decision(found["id"])
    verdict = Verdict(found["rule"], json.loads(found["value"]), json.loads(found["threshold"]))
    return Decision(found["id"], verdict, found["repeats"])


def _row(decision: Decision) -> dict[str, Any]:
    verdict = decision.verdict
    if verdict is None:
        return dict.fromkeys(COLUMNS, "") | {"id": decision.id}
    value, threshold = (json.dumps(item, ensure_ascii=False) for item in (verdict.value, verdict.threshold))
    return {"id": decision.id, "rule": verdict.rule, "value": value, "threshold": threshold, "repeats": decision.repeats}


def _file(folder: Path, number: int) -> Path:
    return folder / DECISIONS / f"{number:05d}.parquet"
