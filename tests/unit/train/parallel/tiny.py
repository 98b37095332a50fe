"""What the cases share: a tiny model, data, and how its training is compared between layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lianlu.core.config import validate
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, empty_model, new_weights
from lianlu.train.checkpoint.state import trainable
from lianlu.train.config import TrainConfig
from lianlu.train.optim.build import build_optimizer, scale_gradients
from lianlu.train.packing import Segment, pack, packed_loss
from lianlu.train.parallel.gather import gathered
from lianlu.train.parallel.layout import Layout
from lianlu.train.share import deal

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
LENGTHS = (7, 13, 3, 1, 21, 9)
STEPS = 5


def layout_of(sharding: str = "full", **parallel: Any) -> Layout:
    table = {"precision": "float32", "parallel": {"sharding": sharding, **parallel}}
    return Layout(validate(TrainConfig, table))


def segments(seed: int, lengths: tuple[int, ...] = LENGTHS, vocab_size: int = 64) -> list[Segment]:
    source = np.random.default_rng(seed)
    made = []
    for length in lengths:
        ids = source.integers(0, vocab_size, length + 1)
        targets = np.where(source.random(length) < 0.8, ids[1:], -100)
        made.append(Segment(ids[:-1], targets))
    return made


def make(layout: Layout, config: ModelConfig) -> Decoder:
    return layout.distribute(empty_model(config), new_weights(config, seed=3))


def own_batches(layout: Layout, examples: list[Segment], max_tokens: int) -> list[Any]:
    shares = deal([example.num_tokens for example in examples], layout.num_data, max_tokens)
    return [pack([examples[index] for index in part]) for part in shares[layout.data_rank]]


def gradients(layout: Layout, model: Decoder, examples: list[Segment], max_tokens: int = 24) -> tuple[float, dict[str, Tensor]]:
    """Loss and whole gradients by name, in the shapes of the decoder."""
    loss = layout.accumulate(model, own_batches(layout, examples, max_tokens), packed_loss)
    shapes = {name: tensor.shape for name, tensor in empty_model(model.config).state_dict().items()}
    found = {}
    for name, parameter in trainable(model).items():
        assert parameter.grad is not None
        grad = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
        found[name] = grad.reshape(shapes[name])
    return loss, found


def train(layout: Layout, model: Decoder, num_steps: int = STEPS, max_tokens: int = 24) -> list[tuple[float, float]]:
    """A few AdamW steps; loss and gradient norm of each."""
    optimizer = build_optimizer(model, validate(TrainConfig, {"optim": {"lr": 1e-3}}).optim)
    parameters = trainable(model)
    figures = []
    for step in range(num_steps):
        examples = segments(step)
        loss = layout.accumulate(model, own_batches(layout, examples, max_tokens), packed_loss)
        norm = layout.norm([p.grad for p in parameters.values() if p.grad is not None])
        scale_gradients(parameters.values(), norm, sum(example.num_targets for example in examples), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        figures.append((loss, norm))
    return figures


def whole_state(model: Decoder) -> dict[str, Tensor]:
    return dict(gathered(model))


def same(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")
