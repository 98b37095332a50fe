"""The ledger of the clean stage: how many documents and bytes went into and out of each step, and what each rule took.

A worker keeps one ledger per chunk; ledgers are added up in the order of the chunks, so that counts and samples do not
depend on how many workers there were. Written as `funnel.json` (for the report) and `rejected.jsonl` (every drop).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from lianlu.data.rules.thresholds import Verdict
from lianlu.formats.documents import Document

FORMAT = 1
SAMPLES_PER_RULE = 5
EXCERPT_CHARS = 300


@dataclass
class RuleCount:
    """What one rule dropped: documents, bytes of text, and the first few of them."""

    documents: int = 0
    bytes: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class StepCount:
    """What went through one step."""

    documents_in: int = 0
    bytes_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0
    documents_edited: int = 0
    rules: dict[str, RuleCount] = field(default_factory=dict)


class Ledger:
    """Counts per step, in order, and the list of rejections."""

    def __init__(self, steps: Iterable[str]) -> None:
        self.steps = {step: StepCount() for step in steps}
        self.rejected: list[dict[str, Any]] = []

    def enter(self, step: str, num_bytes: int) -> None:
        """A document of this size comes to a step."""
        count = self.steps[step]
        count.documents_in += 1
        count.bytes_in += num_bytes

    def leave(self, step: str, num_bytes: int, edited: bool = False) -> None:
        """A document of this size comes out of a step."""
        count = self.steps[step]
        count.documents_out += 1
        count.bytes_out += num_bytes
        count.documents_edited += edited

    def drop(self, step: str, document: Document, verdict: Verdict, **more: Any) -> None:
        """A document ends here. What is kept of it: who it was, why, and how it begins."""
        record = {
            "id": document.id,
            "source": document.source,
            "path": document.path,
            "domain": document.domain,
            "step": step,
            "rule": verdict.rule,
            "value": verdict.value,
            "threshold": verdict.threshold,
            "bytes": document.meta.get("bytes", 0) if not document.text else len(document.text.encode()),
            "excerpt": document.text[:EXCERPT_CHARS],
            **more,
        }
        self.rejected.append(record)
        rule = self.steps[step].rules.setdefault(verdict.rule, RuleCount())
        rule.documents += 1
        rule.bytes += record["bytes"]
        if len(rule.samples) < SAMPLES_PER_RULE:
            rule.samples.append({key: record[key] for key in ("id", "excerpt", "rule", "value", "threshold")})

    def add(self, counts: dict[str, Any]) -> None:
        """Add the counts of another ledger (as `counts` gives them)."""
        for step, theirs in counts.items():
            ours = self.steps[step]
            for name in ("documents_in", "bytes_in", "documents_out", "bytes_out", "documents_edited"):
                setattr(ours, name, getattr(ours, name) + theirs[name])
            for rule, taken in theirs["rules"].items():
                mine = ours.rules.setdefault(rule, RuleCount())
                mine.documents += taken["documents"]
                mine.bytes += taken["bytes"]
                mine.samples.extend(taken["samples"][: SAMPLES_PER_RULE - len(mine.samples)])

    def counts(self) -> dict[str, Any]:
        """Counts and samples by step, as JSON values."""
        return {step: asdict(count) for step, count in self.steps.items()}

    def taken(self) -> list[tuple[str, int]]:
        """Rules and how many documents each took, the greediest first."""
        pairs = [(rule, count.documents) for step in self.steps.values() for rule, count in step.rules.items()]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
