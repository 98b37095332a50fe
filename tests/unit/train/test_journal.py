"""What a run writes down: lines of metrics, the end of a run, TensorBoard events that say the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lianlu.core.config import validate
from lianlu.core.console import Bar
from lianlu.core.errors import MissingExtraError
from lianlu.core.store import Output
from lianlu.model.config import preset
from lianlu.model.decoder import build_model
from lianlu.train import journal as journals
from lianlu.train import meter
from lianlu.train.config import TrainConfig
from lianlu.train.journal import Journal, StepWork, one_line
from lianlu.train.meter import Meter
from lianlu.train.parallel.layout import Layout

MakeOutput = Callable[[str], Output]
FIGURES = {"loss": 2.0, "grad_norm": 1.0, "lr": 1e-3}


@pytest.fixture(autouse=True)
def made_up_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(meter, "device_peak", lambda device, dtype: (1e12, "a made-up device"))
    monkeypatch.setattr(meter.machine, "peak_memory_bytes", lambda: 2_000_000_000)
    return


def make(out: Output, main: bool = True, **changes: Any) -> Journal:
    config = validate(TrainConfig, {"precision": "float32", **changes})
    layout = Layout(config)
    layout.rank = 0 if main else 1
    return Journal(out, config, layout, Meter(build_model(preset("internlm2-nano"), 0), layout))


def bar() -> Bar:
    return Bar("sft", 10, "step")


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def work(seconds: float = 3.0, wait_s: float = 1.0) -> StepWork:
    return StepWork([100, 300], 250, seconds, wait_s)


def test_a_step_has_its_rates_and_memory(new_output: MakeOutput) -> None:
    out, line = new_output("a"), bar()
    journal = make(out)
    journal.step(1, FIGURES, work(), line)
    (found,) = records(out.logs / "metrics.jsonl")
    assert {name: found[name] for name in FIGURES} == FIGURES
    assert (found["tokens"], found["tokens_per_s"], found["wait_share"]) == (400, 100.0, 0.25)
    assert found["mfu"] == pytest.approx(journal._meter.mfu([100, 300], 250, 4.0))
    assert found["memory_bytes"] > 0
    assert found["peak_memory_bytes"] == 2_000_000_000
    assert records(out.path / "losses.jsonl") == [{"step": 1, **FIGURES}]
    for part in ("loss 2", "tokens/s 100", "MFU ", "memory "):
        assert part in line.describe()


def test_the_beginning_tells_the_formula_and_the_end_what_was_planned(
    new_output: MakeOutput, capsys: pytest.CaptureFixture[str]
) -> None:
    out = new_output("a")
    out.figures["planned_memory_bytes"] = 1_900_000_000
    journal = make(out)
    journal.begin(0, 2)
    journal.step(1, FIGURES, work(), bar())
    journal.step(2, FIGURES, work(3.0, 0.0), bar())
    journal.finish()
    said = capsys.readouterr().err
    assert "MFU counts 6 x " in said
    assert "a made-up device" in said
    assert "memory 2.0 GB at most, 1.9 GB planned (-5.0 %); 14.3% of the time spent waiting for data; MFU " in said
    assert out.figures["data_wait_share"] == pytest.approx(1 / 7)
    assert out.figures["measured_memory_bytes"] == 2_000_000_000
    assert out.figures["memory_error_percent"] == pytest.approx(-5.0)
    facts = json.loads((out.logs / "run.json").read_text())
    assert (facts["num_steps"], facts["planned_memory_bytes"]) == (2, 1_900_000_000)


def test_only_the_main_process_writes_but_all_make_samples(new_output: MakeOutput) -> None:
    out = new_output("a")
    journal = make(out, main=False, tensorboard=True)
    journal.begin(0, 2)
    made: list[int] = []

    def samples() -> Iterator[dict[str, Any]]:
        made.append(1)
        yield {"text": "x"}

    journal.step(1, FIGURES, work(), bar())
    journal.figures(1, {"held_out_loss": 1.0}, bar())
    journal.samples(1, samples())
    journal.finish()
    journal.close()
    assert made == [1]
    assert not any(path.is_file() for path in out.path.rglob("*"))
    assert out.figures == {}


def test_held_out_figures_and_the_last_sample_are_lines_on_the_console(
    new_output: MakeOutput, capsys: pytest.CaptureFixture[str]
) -> None:
    out = new_output("a")
    journal = make(out)
    journal.figures(4, {"held_out_loss": 1.23456}, bar())
    journal.samples(4, [{"prompt": "one", "text": "two"}, {"prompt": "a\nb", "text": "c\td"}])
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  step 4: held_out_loss 1.235", "  step 4: 'a b' -> 'c d'"]
    assert [row["text"] for row in records(out.path / "samples.jsonl")] == ["two", "c\td"]


def test_long_samples_are_cut() -> None:
    text = one_line({"prompt": "p" * 500, "text": "t" * 500})
    assert len(text) < 180
    assert text.startswith("'...p")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_events_say_what_the_metrics_say(new_output: MakeOutput) -> None:
    pytest.importorskip("tensorboard")
    out = new_output("a")
    journal = make(out, tensorboard=True)
    journal.begin(0, 3)
    journal.figures(0, {"held_out_loss": 3.0}, bar())
    for step in (1, 2):
        journal.step(step, {**FIGURES, "loss": 2.0 / step}, work(step), bar())
    journal.samples(2, [{"prompt": "p", "text": "t"}])
    journal.close()
    found = scalars(out.logs / "tensorboard")
    steps = [row for row in records(out.logs / "metrics.jsonl") if "loss" in row]
    assert len(found) == len(steps[0])
    for row in steps:
        for name, value in row.items():
            if name != "step":
                tag = next(tag for tag in found if tag.endswith(f"/{name}"))
                assert dict(found[tag])[row["step"]] == pytest.approx(value, rel=1e-6)
    assert found["held_out/held_out_loss"] == [(0, 3.0)]


def test_events_continue_without_a_step_twice(new_output: MakeOutput) -> None:
    pytest.importorskip("tensorboard")
    out = new_output("a")
    first = make(out, tensorboard=True)
    first.begin(0, 9)
    for step in range(1, 6):
        first.step(step, {**FIGURES, "loss": 100.0 + step}, work(), bar())
    # killed here, its last state was that of step 3
    second = make(out, tensorboard=True)
    second.begin(3, 9)
    for step in range(4, 7):
        second.step(step, {**FIGURES, "loss": float(step)}, work(), bar())
    second.close()
    found = scalars(out.logs / "tensorboard")["train/loss"]
    assert found == [(1, 101.0), (2, 102.0), (3, 103.0), (4, 4.0), (5, 5.0), (6, 6.0)]


def test_without_tensorboard_the_way_to_get_it_is_told(new_output: MakeOutput, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError) as caught:
        make(new_output("a"), tensorboard=True).begin(0, 1)
    assert "pip install 'lianlu[tensorboard]'" in caught.value.hint
    assert journals.RUN == "run.json"
