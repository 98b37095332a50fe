"""Parameter groups, and the one scaling that normalises and clips."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lianlu.train.config import OptimConfig
from lianlu.train.optim import build_optimizer, scale_gradients


def test_only_matrices_are_decayed_and_frozen_ones_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {
        id(model[0].weight): 0.3,
        id(model[0].bias): 0.0,
        id(model[1].weight): 0.0,
        id(model[1].bias): 0.0,
        id(model[2].bias): 0.0,
    }


def with_gradients(*values: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor([value])
    return parameters


def test_gradients_become_those_of_the_mean() -> None:
    parameters = with_gradients(3.0, 4.0)
    assert scale_gradients(parameters, num_targets=10, clip=0) == pytest.approx(0.5)
    assert [float(p.grad) for p in parameters] == pytest.approx([0.3, 0.4])


def test_clipping_keeps_the_direction() -> None:
    parameters = with_gradients(30.0, -40.0)
    assert scale_gradients(parameters, num_targets=10, clip=1.0) == pytest.approx(5.0)
    assert [float(p.grad) for p in parameters] == pytest.approx([0.6, -0.8])


def test_a_step_without_targets_is_no_division_by_zero() -> None:
    parameters = with_gradients(1.0)
    assert scale_gradients(parameters, num_targets=0, clip=1.0) == 0.0
    assert scale_gradients([nn.Parameter(torch.zeros(1))], num_targets=3, clip=1.0) == 0.0


def test_agrees_with_torch_clipping() -> None:
    ours, theirs = with_gradients(3.0, 4.0, 12.0), with_gradients(3.0, 4.0, 12.0)
    scale_gradients(ours, num_targets=1, clip=2.0)
    nn.utils.clip_grad_norm_(theirs, 2.0)
    torch.testing.assert_close([p.grad for p in ours], [p.grad for p in theirs], rtol=1e-6, atol=1e-6)
