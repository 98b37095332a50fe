"""What is left, edited and in order: the last walk over all documents, in which the ledger sees each of them go by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lianlu.data.code.quality import standings
from lianlu.data.dedup import line_dedup
from lianlu.data.rules.edits import LINE, Edit, applied
from lianlu.data.rules.edits import counts as personal
from lianlu.data.scores import compare
from lianlu.data.scores.decide import STEPS as RULE_STEPS
from lianlu.data.scores.decide import Rules
from lianlu.data.scores.decisions import Decision, write_decisions
from lianlu.data.scores.ledger import Ledger
from lianlu.data.scores.score import READ_STEPS
from lianlu.data.scores.scored import Chunk
from lianlu.formats.documents import Document

STEPS = (*READ_STEPS, *RULE_STEPS, *compare.STEPS, "pii")
Totals = Counter[tuple[str, str]]
QUALITY = "code_quality"


def recorded(decided: Iterable[Sequence[Decision]], artifact: Path) -> Iterator[Sequence[Decision]]:
    """The same decisions, each chunk's written on its way."""
    for number, decisions in enumerate(decided):
        write_decisions(artifact, number, decisions)
        yield decisions


def kept(
    chunks: Sequence[Chunk],
    decided: Iterable[Sequence[Decision]],
    lines: Path | None,
    ledger: Ledger,
    totals: Totals,
    rules: Rules,
) -> Iterator[Document]:
    """The documents that are kept, edited, code with its tier and weight. `lines` is the folder of shared lines, if they go."""
    for number, (chunk, decisions) in enumerate(zip(chunks, decided, strict=True)):
        edits = chunk.edits()
        if lines is not None:
            shared = line_dedup.read_edits(lines, number, len(chunk))
            edits = [line_dedup.with_repeated(own, more) for own, more in zip(edits, shared, strict=True)]
        for document, decision, changes, told in zip(chunk.documents(), decisions, edits, _tiers(chunk, rules), strict=True):
            if _passes(document, decision, changes, ledger):
                size = len(document.text.encode())
                document.meta = {**document.meta, **told}
                totals.update({("tier", told["tier"]): 1} if told else {})
                totals.update({("documents", document.domain): 1, ("bytes", document.domain): size, ("lang", document.lang): 1})
                totals.update({("pii", kind): count for kind, count in document.meta.get("pii", {}).items()})
                yield document


def _tiers(chunk: Chunk, rules: Rules) -> list[Mapping[str, Any]]:
    """What the quality of code says about each document of a chunk: `tier` and `weight` for its meta, or nothing."""
    found: list[Mapping[str, Any]] = [{}] * len(chunk)
    scores = chunk.signals().get(f"{QUALITY}.min_score") if QUALITY in rules.families else None
    if scores is None:
        return found
    kinds = chunk.kinds()
    rows = np.flatnonzero(~np.isnan(scores)).tolist()
    for kind in {kinds[row] for row in rows}:
        own = [row for row in rows if kinds[row] == kind]
        for row, (tier, weight) in zip(own, standings(scores[own], rules.thresholds.of(QUALITY, *kind)), strict=True):
            found[row] = {"tier": tier, "weight": weight}
    return found


def _passes(document: Document, decision: Decision, changes: Sequence[Edit], ledger: Ledger) -> bool:
    """Lead one document past all steps, up to the one that drops it, making its edits on the way."""
    whole, due = document.text, list[Edit]()
    own = defaultdict[str, list[Edit]](list)
    for edit in changes:
        own[edit.rule.split(".")[0] if edit.kind == LINE else "pii"].append(edit)
    size = len(whole.encode())
    for step in STEPS[len(READ_STEPS) :]:
        ledger.enter(step, size)
        if now := own.get(step):
            due = sorted([*due, *now], key=lambda edit: edit.start)
            document.text = applied(whole, due)
        if decision.verdict is not None and step == decision.step:
            more = {"kept": decision.repeats} if decision.repeats else {}
            ledger.drop(step, document, decision.verdict, **more)
            return False
        size = len(document.text.encode()) if now else size
        ledger.leave(step, size, bool(now))
    if found := personal(changes):
        document.meta = {**document.meta, "pii": found}
    return True
