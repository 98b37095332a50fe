"""Memory of deciding about a scored corpus: how much a document more takes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lianlu.core.pool import Here
from lianlu.data.dedup import near_groups, spill
from lianlu.data.dedup.dedup_index import write_index
from lianlu.data.dedup.near_dedup import NUM_BANDS
from lianlu.data.rules.characters import mixed
from lianlu.data.rules.edits import Edit
from lianlu.data.rules.thresholds import Thresholds, with_shipped
from lianlu.data.scores.compare import Comparison, decided, duplicates, passing
from lianlu.data.scores.corpus import Corpus
from lianlu.data.scores.decide import Rules
from lianlu.data.scores.keep import STEPS, Totals, kept, recorded
from lianlu.data.scores.ledger import Ledger
from lianlu.data.scores.rejections import Rejections
from lianlu.data.scores.score import Scored
from lianlu.data.scores.scored import _write_arrays, _write_signals, write_parquet
from lianlu.data.scores.unique import repeated_ids, unique
from lianlu.formats.documents import Document

PER_CHUNK = 1000
FAMILIES = ("gopher_quality", "exact_dedup", "near_dedup")
OFF = {"alarm": {"max_source_loss": False, "max_cluster_share": False}}


def scored_corpus(folder: Path, count: int) -> Path:
    """Tiny documents: of ten one breaks a rule, one is an exact copy and two are near copies of those before."""
    folder.mkdir(parents=True)
    for number in range(count // PER_CHUNK):
        rows = [row_of(number * PER_CHUNK + row) for row in range(PER_CHUNK)]
        base = folder / f"{number:05d}"
        write_parquet(base.with_name(f"{base.name}.documents.parquet"), [row.document for row in rows])
        _write_signals(base.with_name(f"{base.name}.signals.parquet"), rows)
        _write_arrays(base, rows)
        base.with_name(f"{base.name}.json").write_text('{"counts": {}, "rejected": [], "fingerprint": ""}')
    return folder


def row_of(number: int) -> Scored:
    kind = number % 10
    own = number - {7: 1, 8: 2, 9: 3}.get(kind, 0)
    shingles = np.sort(mixed(np.arange(8, dtype=np.uint64) + np.uint64(own * 8)))
    if kind in (8, 9):
        shingles = shingles[kind - 7 :]
    keys = mixed(np.arange(NUM_BANDS, dtype=np.uint64) + np.uint64(own * NUM_BANDS))
    if kind in (8, 9):
        keys[kind:] = mixed(keys[kind:] + np.uint64(number))
    exact = mixed(np.array([own if kind == 7 else number, 0], np.uint64)).tobytes()
    signals = {"gopher_quality.min_words": 3.0 if kind == 0 else 100.0}
    document = Document(f"document-{number}", f"text {number}", source="abc"[number % 3])
    return Scored(document, "", signals, list[Edit](), len(shingles), exact, shingles, keys)


def clean(scored: Path, target: Path) -> tuple[int, int]:
    """Decide about and write the corpus; returns the most memory that it took, and how many documents were kept."""
    target.mkdir()
    corpus = Corpus.of(scored)
    rules = Rules(FAMILIES, Thresholds(with_shipped(OFF)))
    comparison = Comparison(rules, (), target / "scratch", Here())
    comparison.folder.mkdir()
    tracemalloc.start()
    left = passing(corpus, rules)
    gone = duplicates(corpus, left, comparison)
    ledger, totals = Ledger(STEPS), Totals()
    with open(target / "rejected.jsonl", "wb") as file:
        rejections = Rejections(file)
        decisions = rejections.between(recorded(decided(corpus, gone, comparison, None), target), ledger)
        documents = unique(kept(corpus.chunks, decisions, None, ledger, totals, rules), repeated_ids(corpus))
        count = sum(1 for _ in documents)
        rejections.take(ledger)
    write_index(target / "index", corpus.scored, target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, count


def test_a_document_more_takes_no_more_than_64_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "PER_PARTITION", 512)  # as if there were a hundred times as many
    monkeypatch.setattr(near_groups, "_BLOCK", 512)
    peaks = []
    for count in (1000, 5000, 20000):  # the first for what is imported on the way
        peak, left = clean(scored_corpus(tmp_path / f"scored-{count}", count), tmp_path / f"out-{count}")
        assert left == count * 6 // 10
        peaks.append(peak)
    assert peaks[2] - peaks[1] <= 64 * 15000
