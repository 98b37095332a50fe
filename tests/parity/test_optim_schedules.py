"""Learning rates beside the schedulers of transformers: theirs one step later, without the first one at rate 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.train.config import ConstantSchedule, CosineSchedule, Schedule, WsdSchedule
from lianlu.train.schedule import rate

transformers = pytest.importorskip("transformers")
lengths = st.integers(1, 60)
shares = st.floats(0, 1)


def theirs(name: str, num_steps: int, **options: Any) -> list[float]:
    """Factors at steps 1 to `num_steps`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = getattr(transformers, f"get_{name}")(optimizer, **options)
    return [scheduler.lr_lambdas[0](step + 1) for step in range(num_steps)]


def ours(schedule: Schedule, num_steps: int) -> list[float]:
    return [rate(schedule, step, num_steps) for step in range(num_steps)]


@settings(max_examples=40, deadline=None)
@given(num_steps=lengths, warmup=shares, final=shares)
def test_cosine(num_steps: int, warmup: float, final: float) -> None:
    options = {"num_warmup_steps": round(warmup * num_steps) + 1, "num_training_steps": num_steps + 1, "min_lr_rate": final}
    wanted = theirs("cosine_with_min_lr_schedule_with_warmup", num_steps, **options)
    assert ours(CosineSchedule(warmup=warmup, final=final), num_steps) == pytest.approx(wanted)


@settings(max_examples=40, deadline=None)
@given(num_steps=lengths, warmup=shares, share=shares, final=shares)
def test_wsd(num_steps: int, warmup: float, share: float, final: float) -> None:
    decay = (1 - warmup) * share
    rising, falling = round(warmup * num_steps), round(decay * num_steps)
    options = {
        "num_warmup_steps": rising + 1,
        "num_stable_steps": num_steps - falling - rising - 1,
        "num_decay_steps": falling + 1,
        "decay_type": "linear",
        "min_lr_ratio": final,
    }
    wanted = theirs("wsd_schedule", num_steps, **options)
    got = ours(WsdSchedule(warmup=warmup, decay=decay, final=final), num_steps)
    # their warm-up begins at the final rate
    assert got[rising:] == pytest.approx(wanted[rising:])
    assert got[:rising] == pytest.approx([(step + 1) / (rising + 1) for step in range(rising)])


@settings(max_examples=20, deadline=None)
@given(num_steps=lengths, warmup=shares)
def test_constant(num_steps: int, warmup: float) -> None:
    wanted = theirs("constant_schedule_with_warmup", num_steps, num_warmup_steps=round(warmup * num_steps) + 1)
    assert ours(ConstantSchedule(warmup=warmup), num_steps) == pytest.approx(wanted)
