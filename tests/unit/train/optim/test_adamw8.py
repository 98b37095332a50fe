"""8-bit AdamW learns as well as AdamW, its states are as small as they should be, and its temporaries do not grow."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lianlu.kernels.attention import PackedCausal
from lianlu.kernels.blockwise8 import dequantise
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.train.config import AdamW, AdamW8, Optim
from lianlu.train.optim import adamw8
from lianlu.train.optim.build import build_optimizer, init_state, set_rate

STEPS = 40


def descend(model: nn.Module, loss: Callable[[], Tensor], config: Optim) -> list[float]:
    """Losses on the way, with a rate that falls to nothing."""
    optimizer = build_optimizer(model, config)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        set_rate(optimizer, config.lr * (1 - step / STEPS))
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999)])
def test_a_quadratic_falls_as_under_adamw(betas: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(16, 320, generator=generator)
    curvature = 10.0 ** torch.empty(16, 320).uniform_(-4, 0, generator=generator)

    def run(config: Optim) -> list[float]:
        model = nn.Linear(320, 16, bias=False)
        nn.init.zeros_(model.weight)

        def loss() -> Tensor:
            return (curvature * (model.weight - target).square()).sum()

        return descend(model, loss, config)

    wide = run(AdamW(lr=0.1, betas=betas, weight_decay=0))
    narrow = run(AdamW8(lr=0.1, betas=betas, weight_decay=0))
    assert wide[-1] < 0.1 * wide[0]
    # what is left of the loss, as a share of what there was
    assert abs(narrow[-1] - wide[-1]) < 0.01 * wide[0]
    assert max(abs(a - b) for a, b in zip(narrow, wide, strict=True)) < 0.01 * wide[0]


@pytest.mark.parametrize("embedding_bits", [8, 32])
def test_a_small_language_model_learns_as_under_adamw(embedding_bits: int) -> None:
    shape = ModelConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    ids = torch.randint(96, (60,), generator=torch.Generator().manual_seed(1))
    positions, attend = torch.arange(60), PackedCausal((0, 60))

    def run(config: Optim) -> list[float]:
        model = build_model(shape, 0)
        return descend(model, lambda: F.cross_entropy(model(ids, positions, attend)[:-1], ids[1:]), config)

    wide = run(AdamW(lr=2e-3))
    narrow = run(AdamW8.model_validate({"lr": 2e-3, "embedding_bits": embedding_bits}))
    assert wide[-1] < 0.5 * wide[0]
    for a, b in zip(narrow[10::10], wide[10::10], strict=True):
        assert a == pytest.approx(b, rel=0.01)


def test_states_take_two_bytes_and_a_scale_for_each_block() -> None:
    model = nn.Linear(600, 40, bias=False)
    optimizer = build_optimizer(model, AdamW8())
    init_state(optimizer)
    state = optimizer.state[model.weight]
    assert {key: (value.dtype, tuple(value.shape)) for key, value in state.items()} == {
        "step": (torch.float32, ()),
        "exp_avg": (torch.uint8, (40, 600)),
        "exp_avg_scale": (torch.float32, (40, 3)),
        "exp_avg_sq": (torch.uint8, (40, 600)),
        "exp_avg_sq_scale": (torch.float32, (40, 3)),
    }


def test_states_stand_for_the_running_mean_and_square() -> None:
    model = nn.Linear(512, 16, bias=False)
    optimizer = build_optimizer(model, AdamW8(betas=(0.5, 0.75)))
    grads = torch.randn(2, 16, 512, generator=torch.Generator().manual_seed(0))
    for grad in grads:
        model.weight.grad = grad.clone()
        optimizer.step()
    state = optimizer.state[model.weight]
    mean = dequantise(state["exp_avg"], state["exp_avg_scale"], signed=True)
    square = dequantise(state["exp_avg_sq"], state["exp_avg_sq_scale"], signed=False)
    assert float((mean - (0.25 * grads[0] + 0.5 * grads[1])).abs().max()) < 0.03
    wanted = 0.1875 * grads[0].square() + 0.25 * grads[1].square()
    assert float(((square - wanted).abs() / wanted.amax()).max()) < 0.015
    assert float(state["step"]) == 2


@pytest.mark.parametrize("stacked", [False, True])
def test_runs_of_rows_make_no_difference(stacked: bool) -> None:
    def trained(run: int) -> Tensor:
        model = nn.Linear(300, 48, bias=False)
        weight = torch.randn(48, 300, generator=torch.Generator().manual_seed(5))
        model.weight = nn.Parameter(weight.view(2, 24, 300) if stacked else weight)
        optimizer = build_optimizer(model, AdamW8())
        with mock.patch.object(adamw8, "CPU_RUN", run):
            for seed in range(3):
                grad = torch.randn(48, 300, generator=torch.Generator().manual_seed(seed))
                model.weight.grad = grad.view(model.weight.shape)
                optimizer.step()
        return model.weight.detach().view(48, 300)

    wanted = trained(1 << 17)
    for run in (1, 7 * 300, 1 << 12):
        assert torch.equal(trained(run), wanted)


def test_wide_temporaries_do_not_grow_with_the_matrix() -> None:
    largest = 0
    read = adamw8._Codes.read

    def watched(self: adamw8._Codes, run: int) -> Tensor:
        nonlocal largest
        wide = read(self, run)
        largest = max(largest, wide.numel())
        return wide

    model = nn.Linear(512, 2048, bias=False)
    optimizer = build_optimizer(model, AdamW8())
    model.weight.grad = torch.ones_like(model.weight)
    with mock.patch.object(adamw8._Codes, "read", watched):
        optimizer.step()
    assert 0 < largest <= adamw8.CPU_RUN
