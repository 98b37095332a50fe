"""What was read and what is left, by step and rule, by domain, by language and by source; and what each operator cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.report.excerpts import shown
from lianlu.data.scores.columns import decision_columns, document_columns, num_chunks
from lianlu.data.scores.cost import COST
from lianlu.data.scores.scored import Chunk

MAX_ROWS = 30
MAX_RULES = 200
_PARTS = ("domain", "lang", "source")


def funnel(artifact: Path) -> list[dict[str, Any]]:
    """The steps with documents and bytes in and out, and what each rule took; shares are those of the widest step.

    Raises: DataError if there is no funnel.
    """
    path = artifact / "funnel.json"
    try:
        steps: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read {path}", hint="name an artifact of the clean stage") from error
    widest = max((step["bytes_in"] for step in steps), default=0) or 1
    for step in steps:
        taken = sorted(step["rules"].items(), key=lambda pair: (-pair[1]["documents"], pair[0]))[:MAX_RULES]
        step["rules"] = [(shown(rule, 80), count["documents"], count["bytes"]) for rule, count in taken]
        step["share"] = step["bytes_out"] / widest
    return steps


def groups(scored: Path, artifact: Path) -> dict[str, list[dict[str, Any]]]:
    """Documents and bytes read and kept, by domain, language and source; the largest, and the rest together.

    Bytes are those of the texts without the lines that rules take out.
    """
    sums: dict[str, Counter[tuple[str, str]]] = {part: Counter() for part in _PARTS}
    for number in range(num_chunks(scored)):
        sizes = Chunk(scored, number).num_bytes.tolist()
        (rules,) = decision_columns(artifact, number, "rule")
        for part, names in zip(_PARTS, document_columns(scored, number, *_PARTS), strict=True):
            own = sums[part]
            for name, rule, size in zip(names, rules, sizes, strict=True):
                own[name, "documents"] += 1
                own[name, "bytes"] += size
                if not rule:
                    own[name, "kept_documents"] += 1
                    own[name, "kept_bytes"] += size
    return {part: _largest(own) for part, own in sums.items()}


def _largest(sums: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    names = sorted({name for name, _ in sums}, key=lambda name: (-sums[name, "documents"], name))
    rows = [_row(shown(name, 80), [name], sums) for name in names[:MAX_ROWS]]
    rest = names[MAX_ROWS:]
    return [*rows, {**_row("", rest, sums), "others": len(rest)}] if rest else rows


def _row(label: str, names: Iterable[str], sums: Counter[tuple[str, str]]) -> dict[str, Any]:
    keys = ("documents", "bytes", "kept_documents", "kept_bytes")
    return {"name": label, "others": 0, **{key: sum(sums[name, key] for name in names) for key in keys}}


def cost(artifact: Path) -> list[dict[str, Any]]:
    """Seconds, documents and MB/s of each operator, the dearest first; empty if the run noted none."""
    path = artifact / COST
    try:
        noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        noted = {}
    total = sum(own["seconds"] for own in noted.values()) or 1.0
    rows = [
        {"name": shown(name, 80), **own, "share": own["seconds"] / total, "rate": own["bytes"] / 1e6 / max(own["seconds"], 1e-9)}
        for name, own in noted.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])
