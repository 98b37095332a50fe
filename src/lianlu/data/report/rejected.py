"""A sample of `rejected.jsonl` for the page: every rule has its part in it, drawn by a hash, whatever the size of the file."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from pathlib import Path
from typing import Any

import xxhash

from lianlu.core.errors import DataError
from lianlu.data.report.excerpts import ID_CHARS, shown
from lianlu.data.rules import pii
from lianlu.data.rules.edits import applied

MAX_SHOWN = 1500
MAX_PER_RULE = 150
_EXCERPT_CHARS = 200
_MAX_RULES = 500


def rejected(artifact: Path) -> dict[str, Any]:
    """How many documents each rule rejected, and a sample of them, as JSON values. Raises: DataError without the file."""
    path = artifact / "rejected.jsonl"
    totals = Counter[str]()
    drawn: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file):
                record = json.loads(line)
                totals[record["rule"]] += 1
                if record["rule"] in drawn or len(drawn) < _MAX_RULES:
                    key = xxhash.xxh3_64_intdigest(line.encode("utf-8", "replace"))
                    own = drawn.setdefault(record["rule"], [])
                    push = heapq.heappush if len(own) < MAX_PER_RULE else heapq.heappushpop
                    push(own, (-key, -number, _row(record)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="name an artifact of the clean stage") from error
    return {"total": totals.total(), "rules": totals.most_common(_MAX_RULES), "shown": _chosen(drawn)}


def _row(record: dict[str, Any]) -> dict[str, Any]:
    values = {name: shown(record.get(name, ""), 60) for name in ("rule", "value", "threshold", "domain")}
    long = {"id": shown(record.get("id", ""), ID_CHARS), "kept": shown(record.get("kept", ""), ID_CHARS)}
    return {**values, **long, "excerpt": str(record.get("excerpt", ""))}


def _excerpt(text: str) -> str:
    """How a text begins, personal data replaced: what was rejected was not edited."""
    return shown(applied(text, pii.find(text)), _EXCERPT_CHARS)


def _chosen(drawn: dict[str, list[tuple[int, int, dict[str, Any]]]]) -> list[dict[str, Any]]:
    """As many of each rule as there is room for, in the order of the file."""
    room = MAX_SHOWN
    found: list[tuple[int, dict[str, Any]]] = []
    for left, own in zip(range(len(drawn), 0, -1), sorted(drawn.values(), key=len), strict=True):
        part = heapq.nlargest(max(room // left, 0), own, key=lambda entry: entry[:2])
        found += [(-number, {**row, "excerpt": _excerpt(row["excerpt"])}) for _, number, row in part]
        room -= len(part)
    return [row for _, row in sorted(found, key=lambda entry: entry[0])]
