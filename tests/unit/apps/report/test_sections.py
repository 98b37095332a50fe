"""The training part of the page: charts, spikes, phases, planned beside measured memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lianlu.apps.report import sections
from lianlu.apps.report.page import render
from lianlu.core.files import write_text
from lianlu.core.store import Artifact, Output, Store

FIGURES = {
    "planned_memory_bytes": 2_100_000_000, "measured_memory_bytes": 2_000_000_000, "memory_error_percent": 5.0, "mfu": 0.314,
    "data_wait_share": 0.0123, "tokens_per_s": 1500.0,
}  # fmt: skip


def trained(folder: Path, figures: dict[str, Any], config: dict[str, Any]) -> Artifact:
    store = Store(folder)
    out = Output(store.work("pretrain-1"), dict(figures))
    rows: list[dict[str, Any]] = [
        {"step": step, "loss": 5 - step / 50, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 10.0} for step in range(1, 101)
    ]
    rows[49].update(loss=99.0, spike="loss is above 6")
    rows.append({"step": 100, "held_out_bpb": 2.0})
    write_text(out.path / "logs" / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "id": "pretrain-1", "kind": "checkpoint", "stage": "pretrain", "stage_version": 1, "step": "pretrain", "key": "k",
        "config": config, "inputs": [], "lianlu": "0", "git": "", "device": "", "started": "", "seconds": 1.0,
        "peak_memory_bytes": 1,
    }  # fmt: skip
    return store.publish(out, fields)


def test_every_curve_of_a_training_is_drawn(tmp_path: Path) -> None:
    artifact = trained(tmp_path, FIGURES, {"phases": [{"share": 0.9}, {"share": 0.1, "batch_tokens": 0}], "batch_tokens": 8})
    found = {title.removeprefix("pretrain: "): (svg, note) for title, svg, note in sections.curves([artifact])}
    assert list(found) == [
        "loss (nats per token)", "held-out bits per byte", "learning rate", "norm of the gradient", "tokens a second",
    ]  # fmt: skip
    svg, note = found["loss (nats per token)"]
    assert note == "1,500 tokens/s; spikes left out of the curve: steps 50; phases begin at steps 91"
    assert "<title>spike 50</title>" in svg
    assert "<title>phase 2</title>" in svg
    assert 'class="end">4.98<' in svg


@pytest.mark.parametrize(
    ("phases", "starts"),
    [
        ([], []),
        ([{"share": 1.0}], []),
        ([{"share": 0.5}, {"share": 0.5, "batch_tokens": 24}], [76]),
        ([{"share": 0.25}, {"share": 0.25}, {"share": 0.5}], [26, 51]),
    ],
)
def test_phases_begin_where_their_tokens_put_them(tmp_path: Path, phases: list[dict[str, Any]], starts: list[int]) -> None:
    training = sections.read_training(trained(tmp_path, {}, {}).path)
    assert training is not None
    assert sections.phase_starts({"phases": phases, "batch_tokens": 8}, training) == starts


def test_planned_and_measured_memory_stand_side_by_side(tmp_path: Path) -> None:
    page = render("r", [trained(tmp_path, FIGURES, {})])
    for text in ("Memory planned and measured", "2.1 GB", "2.0 GB", "+5.0 %", "31.4 %", "1.2 %"):
        assert text in page


def test_a_run_without_those_figures_has_no_such_table(tmp_path: Path) -> None:
    artifact = trained(tmp_path, {}, {})
    assert sections.memory([artifact]) == []
    assert "Memory planned and measured" not in render("r", [artifact])
