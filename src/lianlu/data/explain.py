"""Why a document was kept or dropped: the decision on record, every rule with its value and threshold, and its edits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.rules.edits import Edit
from lianlu.data.scores.columns import columns_of, decision_columns
from lianlu.data.scores.decide import Rules, RuleValue
from lianlu.data.scores.decisions import Decision, read_decision
from lianlu.data.scores.scored import Chunk, chunks_in
from lianlu.data.scores.unique import COPY
from lianlu.formats.documents import Document


@dataclass(frozen=True)
class Explained:
    """One document as it was read, what became of it, its rules and edits."""

    document: Document
    decision: Decision
    rules: list[RuleValue]
    edits: list[Edit]


def explain(artifact: Path, scored: Path, name: str, rules: Rules) -> list[Explained]:
    """All documents that were read under the id or from the address `name`; `scored` holds the scores of the artifact.

    A name that none was read under may be an id as it was written (`x~2`).
    """
    chunks = chunks_in(scored)
    places = [(number, row) for number, chunk in enumerate(chunks) for row in _rows(chunk, name)]
    if not places and COPY.search(name):
        places = _written(artifact, len(chunks), name)
    return [_explained(artifact, chunks[number], number, row, rules) for number, row in places]


def _written(artifact: Path, num_chunks: int, name: str) -> list[tuple[int, int]]:
    """Chunk and row of the document that was written under an id: kept documents are written in the order they were read."""
    parts = (columns_of(path, "id")[0] for path in sorted(artifact.glob("part-*.parquet")))
    place = next((place for place, own in enumerate(chain.from_iterable(parts)) if own == name), -1)
    for number in range(num_chunks) if place >= 0 else ():
        kept = [row for row, rule in enumerate(decision_columns(artifact, number, "rule")[0]) if not rule]
        if place < len(kept):
            return [(number, kept[place])]
        place -= len(kept)
    return []


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
