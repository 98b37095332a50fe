"""Why a document was kept or dropped: the decision on record, every rule with its value and threshold, and its edits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.rules.edits import Edit
from lianlu.data.scores.decide import Rules, RuleValue
from lianlu.data.scores.decisions import Decision, read_decision
from lianlu.data.scores.scored import Chunk, chunks_in
from lianlu.formats.documents import Document


@dataclass(frozen=True)
class Explained:
    """One document as it was read, what became of it, its rules and edits."""

    document: Document
    decision: Decision
    rules: list[RuleValue]
    edits: list[Edit]


def explain(artifact: Path, scored: Path, name: str, rules: Rules) -> list[Explained]:
    """All documents that were read under the id or from the address `name`; `scored` holds the scores of the artifact."""
    return [
        _explained(artifact, chunk, number, row, rules)
        for number, chunk in enumerate(chunks_in(scored))
        for row in _rows(chunk, name)
    ]


def _rows(chunk: Chunk, name: str) -> list[int]:
    found = chunk.rows_of(name)
    if found or "://" not in name:
        return found
    return [row for row, document in enumerate(chunk.documents()) if document.url == name]


def unread(artifact: Path, name: str) -> list[dict[str, Any]]:
    """The records of what could not be read under this name. Raises: DataError if the artifact has no ledger."""
    try:
        lines = (artifact / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{artifact} has no rejected.jsonl", hint="name an artifact of the clean stage") from error
    return [record for record in map(json.loads, lines) if record["id"] == name]


def _explained(artifact: Path, chunk: Chunk, number: int, row: int, rules: Rules) -> Explained:
    document = next(found for place, found in enumerate(chunk.documents()) if place == row)
    kind, values = chunk.kinds()[row], {name: float(column[row]) for name, column in chunk.signals().items()}
    return Explained(document, read_decision(artifact, number, row), rules.asked(kind, values), chunk.edits()[row])
