from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.apps.report.curves import line_chart, read_metrics, series
from lianlu.apps.report.page import render, write_report
from lianlu.core.files import write_text
from lianlu.core.store import Artifact, InputRecord, Output, Store

NASTY = "<script>alert('x')</script> & \U0001f600"


def publish(store: Store, step: str, kind: str, files: dict[str, Any], parent: Artifact | None = None) -> Artifact:
    out = Output(store.work(f"{step}-1"))
    for name, value in files.items():
        write_text(out.path / name, value if isinstance(value, str) else json.dumps(value))
    out.figures.update(note=NASTY, gzip_bits_per_byte=2.5)
    digest = parent.manifest.digest if parent else "outside"
    inputs = [InputRecord(field="x", written="x", digest=digest, artifact=parent.id if parent else "", path="")]
    fields = {
        "id": f"{step}-1", "kind": kind, "stage": step, "stage_version": 1, "step": step, "key": "k", "config": {},
        "inputs": inputs, "lianlu": "0", "git": "", "device": "a laptop", "started": "", "seconds": 61.0,
        "peak_memory_bytes": 10**9,
    }  # fmt: skip
    return store.publish(out, fields)


def metrics(*rows: dict[str, float]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def artifacts(tmp_path: Path) -> list[Artifact]:
    store = Store(tmp_path)
    sample = {"id": "1", "excerpt": NASTY, "rule": "r", "value": 3, "threshold": 2}
    rule = {"documents": 1, "bytes": 5, "samples": [sample]}
    step = {
        "step": "gopher",
        "documents_in": 3,
        "bytes_in": 9,
        "documents_out": 2,
        "bytes_out": 4,
        "documents_edited": 0,
        "rules": {"dup_lines": rule},
    }
    clean = publish(store, "clean", "documents", {"funnel.json": {"format": 1, "steps": [step]}})
    curve = metrics({"step": 1, "loss": 5.0, "held_out_bpb": 3.0}, {"step": 2, "loss": 4.0, "held_out_bpb": 2.0})
    model = publish(
        store, "pretrain", "checkpoint",
        {"logs/metrics.jsonl": curve, "samples.jsonl": metrics({"step": 2}), "card.json": {"perplexity": {"int8": 3.0}}}, clean,
    )  # fmt: skip
    values = [
        {"name": "base", "value": 0.1, "low": None, "high": 0.3, "n": 4},
        {"name": "tuned", "value": 0.5, "low": 0.2, "high": 0.8, "n": 4},
    ]
    flip = {"id": "q", "better": True, "input": NASTY, "target": "4", "scores": [0.0, 1.0], "outputs": ["3", "4"]}
    pairs = [
        {"first": "base", "second": "tuned", "comparable": True, "difference": 0.4, "low": 0.1, "high": 0.7, "p": 0.03,
         "significant": True, "improved": 2, "worsened": 0, "flips": [flip], "n": 4, "test": "exact"},
        {"first": "a", "second": "b", "comparable": False, "reason": "other items"},
    ]  # fmt: skip
    board = {"format": 1, "names": ["base", "tuned"], "tasks": {"sums": {"main": "acc", "metrics": {"acc": {
        "higher_is_better": True, "values": values, "pairs": pairs}}}}}  # fmt: skip
    compare = publish(store, "compare", "leaderboard", {"leaderboard.json": board}, model)
    talk = {
        "questions": [{"question": NASTY, "answer": "Paris", "tokens": 2}],
        "tasks": [{"task": "1+1", "answer": "2", "stopped": "answer", "tool_calls": 1}],
    }
    agent = publish(
        store,
        "agent",
        "traces",
        {
            "traces.json": talk,
            "task-000.jsonl": metrics({"step": 0}),
            "logs/timings.json": [{"first_token_s": 0.1, "tokens_per_s": 40.0}],
        },
        model,
    )
    return [clean, model, compare, agent]


class Balanced(HTMLParser):
    """Fails on a tag that is closed and was not opened."""

    VOID = ("meta", "br", "link", "img", "path", "line", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_has_every_section_and_is_self_contained(artifacts: list[Artifact], tmp_path: Path) -> None:
    write_report("tiny", artifacts, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for anchor in ("lineage", "steps", "data", "training", "scores", "quality", "agent"):
        assert f'id="{anchor}"' in page
    assert "<script>" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    for text in ("dup_lines", "2.5", "not comparable: other items", "Paris", "40", "significant"):
        assert text in page
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_page_of_nothing_but_one_step(artifacts: list[Artifact]) -> None:
    page = render("x", artifacts[:1])
    assert 'id="scores"' not in page
    assert 'id="training"' not in page


numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30))
def test_chart_is_valid_svg_within_its_frame(points: list[tuple[float, float]]) -> None:
    svg = ElementTree.fromstring(line_chart({"a<b": points}, "step", {"gzip": 1.0}))
    line = svg.find("polyline")
    assert line is not None
    for pair in line.attrib["points"].split():
        x, y = (float(value) for value in pair.split(","))
        assert 0 <= x <= 560
        assert 0 <= y <= 220


def test_a_step_met_twice_counts_once() -> None:
    rows = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}, {"step": 2, "loss": 4.5}, {"step": 3}]
    assert series(rows, "loss") == [(1.0, 5.0), (2.0, 4.5)]


def test_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    write_text(tmp_path / "m.jsonl", '{"step": 1}\n{"ste')
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1}]
    assert read_metrics(tmp_path / "none.jsonl") == []
