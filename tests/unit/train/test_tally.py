"""Counts of training data: what goes where, and what people are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.formats.examples.sources import Source
from lianlu.train.conversations import Outcome, Rejection
from lianlu.train.tally import OTHER, Tally

LINES = Source(Path("a.jsonl"), "a.jsonl", "alpaca", by_line=True)
OWN = Source(Path("t.jsonl"), "t.jsonl", "alpaca", "held_out", by_line=True)


def tally(**fields: int) -> Tally:
    return Tally.model_validate({"key": "k", "formats": ["alpaca"], **fields})


def wrong(reason: str, place: int = 1, is_wrong: bool = True) -> Outcome:
    return Outcome(place, "x", rejection=Rejection(reason, "", is_wrong, None), is_understood=False)


def test_one_of_every_is_held_out_and_wrong_records_do_not_count() -> None:
    counts = tally()
    seen = [counts.take(LINES, Outcome(n, "x") if n % 3 else wrong("odd", n), 2) for n in range(1, 10) if n % 3]
    assert seen == ["held_out", "train"] * 3
    counts.take(LINES, wrong("odd"), 2)
    assert counts.take(LINES, Outcome(9, "x"), 2) == "held_out"


def test_parts_of_one_document_stay_together_and_a_source_may_decide() -> None:
    counts = tally()
    assert [counts.take(LINES, Outcome(n, "x", continues=n < 3), 2) for n in range(5)] == ["held_out"] * 4 + ["train"]
    assert counts.take(OWN, Outcome(1, "x"), 2) == "held_out"


def test_a_tally_is_read_back_only_for_the_same_data(tmp_path: Path) -> None:
    counts = tally()
    counts.take(LINES, wrong("odd", 4), 2)
    path = tmp_path / "state.json"
    path.write_text(counts.model_dump_json())
    assert Tally.read(path, "k") == counts
    assert Tally.read(path, "other") is None
    path.write_text("{")
    assert Tally.read(path, "k") is None
    assert Tally.read(tmp_path / "absent", "k") is None


def test_reasons_are_shown_in_order_of_their_weight_with_their_first_place() -> None:
    counts = tally()
    for reason, count in (("b", 2), ("a", 2), ("c", 5), ("d", 1), ("e", 1)):
        for number in range(count):
            counts.take(LINES, wrong(reason, 10 + number), 2)
    shown = "5 c (first: a.jsonl:10), 2 a (first: a.jsonl:10), 2 b (first: a.jsonl:10), 1 d (first: a.jsonl:10)"
    assert counts.reasons() == f"{shown}, 1 for other reasons"


def test_endlessly_many_reasons_become_one() -> None:
    counts = tally()
    for number in range(1000):
        counts.take(LINES, wrong(f"reason {number}"), 2)
    assert len(counts.rejected) <= 51
    assert counts.rejected[OTHER] == 950


def test_more_than_half_wrong_is_too_much() -> None:
    ledger = Path("rejected.jsonl")
    tally(records=10, wrong=5).require_mostly_right(Path("d"), ledger)
    tally(records=10, wrong=1, unwanted=9).require_mostly_right(Path("d"), ledger)
    tally().require_mostly_right(Path("d"), ledger)
    with pytest.raises(DataError, match="6 of 10 records of d are wrong") as caught:
        tally(records=10, wrong=6).require_mostly_right(Path("d"), ledger)
    assert "rejected.jsonl lists the records" in caught.value.hint
