"""`lianlu show` of runs that have finished, are at work, or were killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.cli.main import call
from lianlu.core.files import write_text
from lianlu.core.store import Output, Store

Captured = pytest.CaptureFixture[str]
FIELDS = {
    "kind": "adapter", "stage": "sft", "stage_version": 1, "step": "tune", "key": "k", "config": {}, "inputs": [],
    "lianlu": "0", "git": "", "device": "", "started": "2026", "seconds": 1.0, "peak_memory_bytes": 1,
}  # fmt: skip


def train(store: Store, artifact_id: str, num_steps: int = 30) -> Path:
    """The folder of a run with a log."""
    folder = store.work(artifact_id, "tune")
    rows = [
        {"step": step, "loss": 5 - step / 10, "lr": 0.1, "tokens_per_s": 10.0, "seconds": 2.0} for step in range(1, num_steps)
    ]
    write_text(folder / "logs" / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(folder / "logs" / "run.json", json.dumps({"num_steps": 100}))
    return folder


@pytest.mark.parametrize("name", ["@tune", "sft-a", "sft-aaa"])
def test_a_killed_run_is_shown(home: Path, capsys: Captured, name: str) -> None:
    train(Store(home), "sft-aaa")
    assert call(["show", name]) == 0
    text = capsys.readouterr().out
    assert "sft-aaa: stopped; the command that started it continues it" in text
    assert "step 29 of 100   10 tokens/s   2:22 left" in text
    assert "loss 4.9 -> 2.1" in text


def test_a_run_at_work_is_shown_with_another_figure(home: Path, capsys: Captured) -> None:
    store = Store(home)
    train(store, "sft-aaa")
    with store.lock("sft-aaa"):
        assert call(["show", "@tune", "--metric", "lr"]) == 0
    text = capsys.readouterr().out
    assert "sft-aaa: at work" in text
    assert "lr 0.1 -> 0.1" in text


def test_a_figure_that_is_not_there_is_explained(home: Path, capsys: Captured) -> None:
    train(Store(home), "sft-aaa")
    assert call(["show", "@tune", "--metric", "lrr"]) == 2
    text = capsys.readouterr().err
    assert "no figure lrr" in text
    assert "tokens_per_s" in text


def test_an_artifact_is_shown_with_its_curve_and_what_has_not_finished(home: Path, capsys: Captured) -> None:
    store = Store(home)
    artifact = store.publish(Output(train(store, "sft-aaa")), {"id": "sft-aaa", **FIELDS})
    store.set_name("tune", artifact.id)
    train(store, "sft-bbb")
    assert call(["show", "@tune"]) == 0
    text = capsys.readouterr().out
    assert "tune: adapter sft-aaa" in text
    assert "loss 4.9 -> 2.1" in text
    assert "sft-bbb has not finished: `lianlu show sft-bbb`" in text


def test_nothing_of_that_name(home: Path, capsys: Captured) -> None:
    assert call(["show", "@tune"]) == 2
    assert "there is no artifact @tune" in capsys.readouterr().err


def test_an_artifact_without_a_training_log_has_no_figures_to_draw(home: Path, capsys: Captured) -> None:
    store = Store(home)
    folder = store.work("clean-aaa")
    write_text(folder / "data.txt", "x")
    store.publish(Output(folder), {"id": "clean-aaa", **FIELDS})
    assert call(["show", "clean-aaa"]) == 0
    assert call(["show", "clean-aaa", "--metric", "loss"]) == 2
    assert "no training log" in capsys.readouterr().err
