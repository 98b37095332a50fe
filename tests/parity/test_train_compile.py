"""Training with blocks compiled by PyTorch's compiler against the same blocks run as they are written."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from lianlu.core.config import validate
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.train.config import TrainConfig
from lianlu.train.packing import Segment, pack, packed_loss
from lianlu.train.recompute import prepare_blocks

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIG = ModelConfig(vocab_size=50, num_hidden_layers=3, initializer_range=0.2, **SHAPE)


def computed(table: dict[str, object]) -> dict[str, torch.Tensor]:
    """Losses of batches of different lengths, and the sum of their gradients."""
    model = build_model(CONFIG, seed=1)
    prepare_blocks(model, validate(TrainConfig, table))
    source = np.random.default_rng(3)
    found = {}
    for number, lengths in enumerate([(5, 17, 9), (30, 2), (40,)]):
        batch = pack([Segment(source.integers(0, 50, n), source.integers(0, 50, n)) for n in lengths])
        loss = packed_loss(model, batch)
        loss.backward()
        found[f"loss {number}"] = loss.detach()
    return found | {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs a C++ compiler")
def test_compiled_blocks_give_the_loss_and_the_gradients_of_plain_ones() -> None:
    torch._dynamo.reset()
    wanted = computed({})
    for checkpointing in ("none", "full"):
        found = computed({"compile": True, "checkpointing": checkpointing})
        assert found.keys() == wanted.keys()
        assert all(float((found[name] - wanted[name]).norm() / wanted[name].norm()) < 1e-5 for name in wanted)
