"""A decoder of some thousand weights with one of them frozen, and the optimisers of the house after a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.core.config import validate
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.config import CheckpointConfig, TrainConfig
from lianlu.train.optim.build import build_optimizer
from lianlu.train.parallel.layout import Layout

HIDDEN, FFN, VOCABULARY = 32, 64, 130
SHAPE = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=HIDDEN,
    intermediate_size=FFN,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,
)
KINDS = ("adamw", "adamw8", "muon")
NUM_TOKENS = 5

Run = tuple[Decoder, torch.optim.Optimizer]


def make_run(kind: str = "adamw", seed: int = 0, num_steps: int = 1, shape: ModelConfig = SHAPE) -> Run:
    """A model and its optimiser after some steps."""
    model = build_model(shape, seed)
    model.norm.weight.requires_grad_(False)
    optimizer = build_optimizer(model, validate(TrainConfig, {"optim": {"kind": kind, "lr": 0.01}}).optim)
    for number in range(num_steps):
        one_step(model, optimizer, number + seed)
    return model, optimizer


def one_step(model: Decoder, optimizer: torch.optim.Optimizer, number: int) -> None:
    ids = torch.randint(VOCABULARY, (NUM_TOKENS,), generator=torch.Generator().manual_seed(number))
    model(ids, torch.arange(NUM_TOKENS), PackedCausal([0, NUM_TOKENS])).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def same(first: Run, second: Run) -> bool:
    """Whether trained weights and optimiser states are equal to the bit."""
    for ours, theirs in zip(first[0].parameters(), second[0].parameters(), strict=True):
        if not ours.requires_grad:
            continue
        own, other = first[1].state.get(ours, {}), second[1].state.get(theirs, {})
        if not torch.equal(ours, theirs) or set(own) != set(other):
            return False
        if any(value.dtype != other[key].dtype or not torch.equal(value, other[key]) for key, value in own.items()):
            return False
    return True


@pytest.fixture
def new_checkpoints(tmp_path: Path) -> Callable[..., Checkpoints]:
    def make(logs: tuple[Path, ...] = (), **fields: Any) -> Checkpoints:
        layout = Layout(TrainConfig(precision="float32"))
        return Checkpoints(tmp_path / "states", validate(CheckpointConfig, fields), layout, logs)

    return make
