"""What a run's folder tells: the lines of `lianlu show`, for runs that have finished and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lianlu.apps.report.training import Training, describe, read_training
from lianlu.core.errors import DataError
from lianlu.core.files import write_text


def rows(num_steps: int = 40) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"step": 0, "held_out_loss": 6.0}]
    for step in range(1, num_steps + 1):
        figures = {"loss": 5 - step / 10, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_s": 1500.0, "seconds": 2.0, "wait_s": 0.5}
        found.append({"step": step, **figures, "wait_share": 0.2, "mfu": 0.314, "peak_memory_bytes": 2e9})
    found.append({"step": num_steps, "held_out_loss": 2.0})
    return found


def write(folder: Path, lines: list[dict[str, Any]], facts: dict[str, Any] | None = None) -> Path:
    write_text(folder / "logs" / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    if facts is not None:
        write_text(folder / "logs" / "run.json", json.dumps(facts))
    return folder


def read(folder: Path) -> Training:
    training = read_training(folder)
    assert training is not None
    return training


def test_where_a_run_stands(tmp_path: Path) -> None:
    training = read(write(tmp_path, rows(), {"num_steps": 100, "planned_memory_bytes": 2.2e9}))
    text = "\n".join(describe(training))
    wanted = "step 40 of 100   1,500 tokens/s   MFU 31.4%   memory 2.0 GB (2.2 GB planned)   waits for data 20.0%   2:30 left"
    assert wanted in text
    assert "held_out_loss 6 -> 2" in text
    assert text.startswith("loss   o held_out_loss\n")


def test_a_run_killed_in_the_middle_of_a_line_is_shown(tmp_path: Path) -> None:
    folder = write(tmp_path, rows(5))
    with open(folder / "logs" / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    text = "\n".join(describe(read(folder)))
    assert "step 5   1,500" in text
    assert "left" not in text


def test_spikes_are_marked_and_do_not_squeeze_the_curve(tmp_path: Path) -> None:
    lines = rows()
    lines[20].update(loss=1e6, spike="loss is above 9")
    lines[21].update(loss=float("nan"), spike="loss is nan")
    text = "\n".join(describe(read(write(tmp_path, lines))))
    assert "x spikes (2)" in text
    assert "loss 4.9 -> 1" in text


def test_another_metric(tmp_path: Path) -> None:
    training = read(write(tmp_path, rows()))
    assert describe(training, "lr")[0] == "lr"
    with pytest.raises(DataError, match="no figure lrr") as caught:
        describe(training, "lrr")
    assert "grad_norm" in caught.value.hint


def test_the_last_samples_are_shown_in_a_line_each(tmp_path: Path) -> None:
    folder = write(tmp_path, rows())
    samples = [{"step": 20, "prompt": "old", "text": "old"}, {"step": 40, "prompt": "a\nb", "text": "c\n" * 500}]
    write_text(folder / "samples.jsonl", "".join(json.dumps(sample) + "\n" for sample in samples))
    shown = [line for line in describe(read(folder)) if "->" in line and line.startswith("  ")]
    assert shown == [f"  'a b' -> {('c ' * 80)[:160]!r}"]


@pytest.mark.parametrize("content", ["", "not json\n", '{"chunks": 3}\n'])
def test_folders_without_a_training_log(tmp_path: Path, content: str) -> None:
    assert read_training(tmp_path) is None
    write_text(tmp_path / "logs" / "metrics.jsonl", content)
    assert read_training(tmp_path) is None


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    text = "\n".join(describe(read(write(tmp_path, rows()[:1], {"num_steps": 10}))))
    assert "step 0 of 10" in text
