from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.core import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (12.4, "12 s"),
        (59.7, "60 s"),
        (185, "3:05"),
        (3723, "1:02:03"),
        (172_800, "48:00:00"),
        (1_080_000, "12.5 days"),
        (141_861_182_943, "4,495.3 years"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert console.format_seconds(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(512, "512 B"), (98_362_432, "98.4 MB"), (2e12, "2.0 TB")])
def test_bytes_for_people(count: float, text: str) -> None:
    assert console.format_bytes(count) == text


def test_bar_counts_only_new_work_in_its_rate() -> None:
    bar = console.Bar("train", total=100, unit="step", done=90)
    bar._started -= 5
    bar.advance(5, loss=2.5)
    assert bar.rate() == pytest.approx(1.0, rel=0.05)
    assert "95/100 step" in bar.describe()
    assert "loss 2.5" in bar.describe()


def test_plain_output_prints_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    with console.progress("clean", total=2, unit="document") as bar:
        bar.advance()
    console.error("bad [thing]", "do [that]")
    text = capsys.readouterr().err
    assert "clean: 1/2 document" in text
    assert "bad [thing]" in text
    assert "do [that]" in text


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    log = console.MetricsLog(tmp_path / "logs" / "metrics.jsonl")
    log.write(step=1, loss=2.0)
    log.write(step=2, loss=1.0)
    lines = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [2.0, 1.0]
