"""The loop with a model of two numbers: what it does at which step, and that resuming changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, EngineError
from lianlu.core.store import Output
from lianlu.train.config import TrainConfig
from lianlu.train.loop import RESUME, Loop
from lianlu.train.parallel.layout import Layout

MakeOutput = Callable[[str], Output]


@dataclass
class Points:
    x: Tensor
    y: Tensor

    @property
    def num_tokens(self) -> int:
        return len(self.x)

    num_targets = num_tokens


class Killed(BaseException):
    """Stands for the signal."""


class LineTask:
    """Fit y = 2 x + 1 with dropout, eight points a step."""

    def __init__(self, num_steps: int = 9, killed_at: int | None = None) -> None:
        self.num_steps = num_steps
        self.killed_at = killed_at
        self.num_losses = 0

    def prepare(self, model: nn.Module, step: int) -> None:
        self.step = step

    def rate(self, step: int) -> float:
        return 1.0

    def examples(self, step: int) -> list[Points]:
        x = torch.rand(8, 1, generator=torch.Generator().manual_seed(step))
        return [Points(part, 2 * part + 1) for part in x.split(1)]

    def collate(self, examples: Sequence[Points]) -> Points:
        return Points(torch.cat([e.x for e in examples]), torch.cat([e.y for e in examples]))

    def loss(self, model: nn.Module, batch: Points) -> Tensor:
        self.num_losses += 1
        if self.killed_at == self.step and self.num_losses % 2 == 0:
            raise Killed
        return (model(batch.x) - batch.y).square().sum()

    def describe(self, example: Points) -> str:
        return f"point {float(example.x):.2f}"

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"slope": float(model[1].weight[0, 0])}

    def samples(self, model: nn.Module, step: int) -> Iterator[dict[str, Any]]:
        yield {"text": f"step {step}"}


def line(dropout: float = 0.0) -> nn.Sequential:
    model = nn.Sequential(nn.Dropout(dropout), nn.Linear(1, 1))
    with torch.no_grad():
        model[1].weight.fill_(0.5)
        model[1].bias.fill_(0.0)
    return model


def make_config(**changes: Any) -> TrainConfig:
    base = {"precision": "float32", "optim": {"lr": 0.05, "clip": 0}, "micro_tokens": 4}
    return validate(TrainConfig, {**base, **changes})


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(out: Output, task: LineTask, dropout: float = 0.0, **changes: Any) -> nn.Sequential:
    model = line(dropout)
    config = make_config(**changes)
    Loop(model, task, config, out, Layout(config)).run("line")
    return model


def test_it_learns_and_logs_every_step(new_output: MakeOutput) -> None:
    out = new_output("a")
    train(out, LineTask(num_steps=200), optim={"lr": 0.1, "weight_decay": 0})
    losses = [record["loss"] for record in records(out.path / "losses.jsonl") if "loss" in record]
    assert len(losses) == 200
    assert losses[-1] < losses[0] / 50
    metrics = [record for record in records(out.logs / "metrics.jsonl") if "loss" in record]
    assert [record["step"] for record in metrics] == list(range(1, 201))
    assert {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "seconds", "wait_s"} <= set(metrics[0])
    assert metrics[0]["tokens"] == 8


@pytest.mark.parametrize(
    ("changes", "evaluated", "sampled"),
    [
        ({"eval_every": 4}, [0, 4, 8, 9], [9]),
        ({"eval_every": 3, "sample_every": 2}, [0, 3, 6, 9], [2, 4, 6, 8, 9]),
        ({}, [0, 2, 4, 6, 8, 9], [9]),
        ({"eval_every": 100}, [0, 9], [9]),
    ],
)
def test_when_it_evaluates_and_samples(
    new_output: MakeOutput, changes: dict[str, Any], evaluated: list[int], sampled: list[int]
) -> None:
    out = new_output("a")
    train(out, LineTask(), **changes)
    assert [r["step"] for r in records(out.path / "losses.jsonl") if "slope" in r] == evaluated
    assert [r["step"] for r in records(out.path / "samples.jsonl")] == sampled


def test_micro_batches_of_any_size_give_the_same_run(new_output: MakeOutput) -> None:
    wanted = train(new_output("a"), LineTask(), micro_tokens=8)
    for size in (1, 3, 5):
        got = train(new_output(str(size)), LineTask(), micro_tokens=size)
        torch.testing.assert_close(got.state_dict(), wanted.state_dict(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("checkpoint_every", [1, 2, 4])
@pytest.mark.parametrize("killed_at", [0, 3, 8])
def test_a_run_killed_inside_a_step_continues_to_the_same_bits(
    new_output: MakeOutput, checkpoint_every: int, killed_at: int
) -> None:
    whole, broken = new_output("whole"), new_output("broken")
    wanted = train(whole, LineTask(), dropout=0.3, sample_every=2)
    with pytest.raises(Killed):
        train(broken, LineTask(killed_at=killed_at), dropout=0.3, sample_every=2, checkpoint={"every": checkpoint_every})
    with open(broken.path / "losses.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    got = train(broken, LineTask(), dropout=0.3, sample_every=2, checkpoint={"every": checkpoint_every})
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(tensor, got.state_dict()[name])
    for name in ("losses.jsonl", "samples.jsonl"):
        assert (broken.path / name).read_bytes() == (whole.path / name).read_bytes()
    steps = [record["step"] for record in records(broken.logs / "metrics.jsonl") if "loss" in record]
    assert steps == list(range(1, 10))


def test_dropout_follows_the_seed(new_output: MakeOutput) -> None:
    runs = [train(new_output(str(i)), LineTask(), dropout=0.5, seed=seed)[1].weight for i, seed in enumerate((1, 1, 2))]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_finished_run_trains_no_further(new_output: MakeOutput) -> None:
    out = new_output("a")
    wanted = train(out, LineTask())
    before = (out.path / "losses.jsonl").read_bytes()
    assert torch.equal(train(out, LineTask())[1].weight, wanted[1].weight)
    assert (out.path / "losses.jsonl").read_bytes() == before
    assert [path.name for path in (out.path / RESUME).iterdir()] == ["step-00000009"]


def test_a_diverging_run_stops_with_advice_and_keeps_its_state(new_output: MakeOutput) -> None:
    class Exploding(LineTask):
        def loss(self, model: nn.Module, batch: Points) -> Tensor:
            return super().loss(model, batch) * float("inf")

    out = new_output("a")
    with pytest.raises(ConfigError, match="diverged at step 3") as caught:
        train(out, Exploding(), spikes={"max_in_a_row": 3})
    assert "optim.lr" in caught.value.hint


class Spiking(LineTask):
    """The points of one step are wrong by a thousand."""

    spike = 40

    def examples(self, step: int) -> list[Points]:
        points = super().examples(step)
        return [Points(p.x, p.y + 1000) for p in points] if step == self.spike else points


@pytest.mark.parametrize("skip", [True, False])
def test_a_spike_is_told_and_left_out_if_wished(new_output: MakeOutput, capsys: pytest.CaptureFixture[str], skip: bool) -> None:
    out = new_output("a")
    model = train(out, Spiking(num_steps=60), optim={"lr": 0.05, "clip": 0}, spikes={"window": 16, "skip": skip})
    steps = [record for record in records(out.path / "losses.jsonl") if "loss" in record]
    assert [record["step"] for record in steps if "spike" in record] == [41]
    assert "step 41" in capsys.readouterr().err
    calm = train(new_output("b"), LineTask(num_steps=60), spikes={"window": 16})
    near = abs((model[1].weight - calm[1].weight).item()) < 0.05
    assert near == skip


def test_a_continued_run_judges_spikes_as_an_unbroken_one(new_output: MakeOutput) -> None:
    class Broken(Spiking):
        def examples(self, step: int) -> list[Points]:
            if step == 45 and self.killed_at == 45:
                raise Killed
            return super().examples(step)

    whole, broken = new_output("whole"), new_output("broken")
    wanted = train(whole, Broken(num_steps=60), spikes={"window": 16})
    with pytest.raises(Killed):
        train(broken, Broken(num_steps=60, killed_at=45), spikes={"window": 16}, checkpoint={"every": 38})
    got = train(broken, Broken(num_steps=60), spikes={"window": 16}, checkpoint={"every": 38})
    assert torch.equal(got[1].weight, wanted[1].weight)
    assert (broken.path / "losses.jsonl").read_bytes() == (whole.path / "losses.jsonl").read_bytes()


def test_an_audit_passes_over_an_honest_task_and_stops_a_wrong_one(new_output: MakeOutput) -> None:
    class Leaking(LineTask):
        def loss(self, model: nn.Module, batch: Points) -> Tensor:
            return super().loss(model, batch) * (1 + 0.01 * (len(batch.x) > 1))

    honest = train(new_output("a"), LineTask(), dropout=0.3, audit=True)
    assert torch.equal(honest[1].weight, train(new_output("b"), LineTask(), dropout=0.3)[1].weight)
    with pytest.raises(EngineError, match="the audit failed"):
        train(new_output("c"), Leaking(), audit=True)
