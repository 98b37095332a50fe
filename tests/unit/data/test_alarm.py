"""When near duplicate removal stops a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.data.dedup import alarm
from lianlu.data.dedup.alarm import Bounds, Finding, findings_of_run, stop_at
from lianlu.data.dedup.duplicates import repeats
from lianlu.data.read.sources import RECORD, Raw
from lianlu.data.rules.thresholds import Thresholds, Verdict, shipped
from lianlu.data.scores.columns import decision_columns, document_columns, num_chunks
from lianlu.data.scores.corpus import Corpus
from lianlu.data.scores.decisions import Decision, write_decisions
from lianlu.data.scores.score import Settings
from lianlu.data.scores.scored import run_chunk
from lianlu.formats.documents import Document


@dataclass(frozen=True)
class Compared:
    """A document that was compared with others: its source, and what tells the kept document that it repeats, if any."""

    source: str
    repeats: Any = None


def findings(compared: Iterable[Compared], bounds: Bounds) -> list[Finding]:
    documents, lost, clusters = Counter[str](), Counter[str](), Counter[Any]()
    for document in compared:
        documents[document.source] += 1
        if document.repeats is not None:
            lost[document.source] += 1
            clusters[document.repeats] += 1
    return alarm.findings(documents, lost, clusters.items(), bounds)


def of_artifact(scored: Path, artifact: Path) -> Iterator[Compared]:
    """What was compared, by the decisions of a finished run; there kept documents are told apart by their ids alone."""
    for number in range(num_chunks(scored)):
        sources = document_columns(scored, number, "source")[0]
        rules, repeats = decision_columns(artifact, number, "rule", "repeats")
        for source, rule, other in zip(sources, rules, repeats, strict=True):
            step = rule.split(".")[0]
            if step in ("", "near_dedup"):
                yield Compared(source, other if step else None)


def corpus(source: str, kept: int, lost: int, cluster: int = 2) -> list[Compared]:
    """Documents of a source, those lost in clusters of so many."""
    return [Compared(source)] * kept + [Compared(source, (source, n // (cluster - 1))) for n in range(lost)]


def test_a_source_that_loses_more_than_half_is_named_and_one_that_loses_half_is_not() -> None:
    found = findings([*corpus("a", 50, 50), *corpus("b", 49, 51)], Bounds())
    assert [(finding.kind, finding.name, finding.taken, finding.documents) for finding in found] == [("source", "b", 51, 100)]


def test_a_cluster_of_more_than_a_hundredth_is_named() -> None:
    quiet = corpus("a", 991, 9, cluster=10)
    assert findings(quiet, Bounds()) == []
    loud = findings(corpus("a", 990, 10, cluster=11), Bounds())
    assert [(finding.kind, finding.name, finding.taken, finding.documents) for finding in loud] == [
        ("cluster", ("a", 0), 11, 1000)
    ]


def test_small_sources_and_corpora_are_left_alone() -> None:
    small = corpus("a", 1, 98, cluster=99)
    assert findings(small, Bounds()) == []
    assert {finding.kind for finding in findings(small, Bounds(min_source_documents=1, min_documents=1))} == {"source", "cluster"}
    assert findings(small, Bounds(False, False, 1, 1)) == []


@given(
    st.lists(st.builds(Compared, st.sampled_from("abc"), st.sampled_from([None, 1, 2, 3])), max_size=60),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 20),
)
def test_findings_are_those_of_the_definition(documents: list[Compared], loss: float, share: float, least: int) -> None:
    found = findings(documents, Bounds(loss, share, least, least))
    wanted = set()
    for name in "abc":
        own = [document for document in documents if document.source == name]
        lost = sum(document.repeats is not None for document in own)
        if len(own) >= least and lost > loss * len(own):
            wanted.add(("source", name))
    for kept in (1, 2, 3):
        size = sum(document.repeats == kept for document in documents) + 1
        if size > 1 and len(documents) >= least and size > share * len(documents):
            wanted.add(("cluster", kept))
    assert {(finding.kind, finding.name) for finding in found} == wanted
    assert [finding.share for finding in found] == sorted((finding.share for finding in found), reverse=True)


def test_the_error_says_what_and_what_to_do() -> None:
    stop_at([])
    with pytest.raises(DataError, match=r"source b loses 51 of 100 documents \(51 %, threshold 50 %\)") as raised:
        stop_at(findings(corpus("b", 49, 51), Bounds.of({"max_source_loss": 0.5, "min_documents": 200})))
    assert "thresholds.alarm.max_source_loss" in raised.value.hint


def test_a_run_and_its_record_say_the_same(tmp_path: Path) -> None:
    scored = tmp_path / "scored"
    scored.mkdir()
    raws = [
        Raw(f"{n}", RECORD, 3, document=Document(f"d{n}", f"text {n}", source="even" if n % 2 == 0 else "odd")) for n in range(6)
    ]
    run_chunk(scored, 0, raws, Settings((), Thresholds(shipped())))
    near, exact = (Verdict(f"{step}.max_jaccard", 1, 0.7) for step in ("near_dedup", "exact_dedup"))
    dropped = {1: Decision("d1", Verdict("c4.min_sentences", 1, 3)), 2: Decision("d2", exact, "d0")}
    dropped |= {3: Decision("d3", near, "d0"), 4: Decision("d4", near, "d0")}
    write_decisions(tmp_path, 0, [dropped.get(n, Decision(f"d{n}")) for n in range(6)])
    bounds = Bounds(0.3, 0.4, 1, 1)
    running = findings_of_run(
        Corpus.of(scored), np.array([1, 0, 0, 1, 1, 1], bool), repeats("near_dedup", [3, 4], [0, 0], 1.0), bounds
    )
    assert running == findings(of_artifact(scored, tmp_path), bounds)
    assert [(finding.kind, finding.name, finding.taken, finding.documents) for finding in running] == [
        ("cluster", "d0", 3, 4),
        ("source", "even", 1, 2),
        ("source", "odd", 1, 2),
    ]
