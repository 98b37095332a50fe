"""A model trained in phases, saved, and read by transformers: the loss is that of the last phase's rotary base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import build_model
from lianlu.model.save import save_model
from lianlu.train.config import ConstantSchedule
from lianlu.train.phases import PhaseConfig, Timeline
from lianlu.train.shape import ShapeConfig

PHASES = (
    PhaseConfig(share=0.5, rope_theta=5e1),
    PhaseConfig(share=0.5, sequence_length=48, rope_theta=1e4),
)


@pytest.mark.parametrize("length", [24, 48, 80])
def test_transformers_computes_the_loss_of_the_last_phase(length: int, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    timeline = Timeline(PHASES, PhaseConfig(share=1, sequence_length=16, batch_tokens=64), 640, ConstantSchedule())
    changes = {"rope_scaling": {"kind": "dynamic", "factor": 2.0}, "max_position_embeddings": 32, "initializer_range": 0.2}
    shape = ShapeConfig.model_validate({"preset": "internlm2-nano", **changes}).as_model(512, timeline.longest)
    model = build_model(shape, seed=2)
    ids = torch.randint(0, 512, (length + 1,), generator=torch.Generator().manual_seed(length))
    losses = []
    for phase in timeline.phases:
        model.rotate_with(phase.rotated(shape))
        logits = model(ids[:-1], torch.arange(length), PackedCausal([0, length]))
        losses.append(torch.nn.functional.cross_entropy(logits, ids[1:]).item())
    save_model(model, tmp_path, layout="llama")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        logits = theirs(ids[None, :-1]).logits[0]
    assert torch.nn.functional.cross_entropy(logits, ids[1:]).item() == pytest.approx(losses[1], rel=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-4
