"""The one optimiser object: rates, states, and the one scaling that normalises and clips."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.train.config import AdamW, AdamW8, GroupRule, Muon, Optim
from lianlu.train.optim.build import Optimizer, build_optimizer, init_state, scale_gradients, set_rate

SHAPE = ModelConfig(
    vocab_size=80, hidden_size=64, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)
KINDS: list[Optim] = [AdamW(), AdamW8(embedding_bits=8), Muon(precision="float32"), Muon(precision="bfloat16")]


def put_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(model: Decoder, optimizer: Optimizer, steps: range) -> Decoder:
    for step in steps:
        put_gradients(model, step)
        optimizer.step()
    return model


def test_only_matrices_are_decayed_and_frozen_ones_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    optimizer = build_optimizer(model, AdamW(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {
        id(model[0].weight): 0.3,
        id(model[0].bias): 0.0,
        id(model[1].weight): 0.0,
        id(model[1].bias): 0.0,
        id(model[2].bias): 0.0,
    }


def test_the_loops_rate_is_multiplied_by_each_groups_own_scale() -> None:
    config = Muon(lr=1e-2, adamw_lr=1e-3, groups=(GroupRule(match="lm_head", lr=0.5), GroupRule(match="wo", lr=0)))
    model = build_model(SHAPE, 0)
    optimizer = build_optimizer(model, config)
    set_rate(optimizer, 2e-2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.layers[0].mlp.down.weight)] == pytest.approx(2e-2)
    assert rates[id(model.embed_tokens.weight)] == pytest.approx(2e-3)
    assert rates[id(model.lm_head.weight)] == pytest.approx(1e-3)
    assert rates[id(model.layers[1].attention.wo.weight)] == 0


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_a_saved_state_continues_to_the_same_bits(config: Optim) -> None:
    whole = build_model(SHAPE, 0)
    train(whole, build_optimizer(whole, config), range(6))
    first = build_model(SHAPE, 0)
    optimizer = build_optimizer(first, config)
    train(first, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    second = copy.deepcopy(first)
    fresh = build_optimizer(second, config)
    fresh.load_state_dict(saved)
    for old, new in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert {key: value.dtype for key, value in new.items()} == {key: value.dtype for key, value in old.items()}
        assert all(torch.equal(value, new[key]) for key, value in old.items())
    train(second, fresh, range(3, 6))
    for got, wanted in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_made_states_are_those_of_a_first_step(config: Optim) -> None:
    models = [build_model(SHAPE, 0) for _ in range(2)]
    optimisers = [build_optimizer(model, config) for model in models]
    init_state(optimisers[0])
    assert len(optimisers[0].state) == len(list(models[0].parameters()))
    for model, optimizer in zip(models, optimisers, strict=True):
        train(model, optimizer, range(2))
    for got, wanted in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(got, wanted)
    for made, grown in zip(*(optimizer.state.values() for optimizer in optimisers), strict=True):
        assert list(made) == list(grown)
        assert all(torch.equal(value, grown[key]) for key, value in made.items())


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_what_has_no_gradient_stays_as_it_is(config: Optim) -> None:
    model = build_model(SHAPE, 0)
    optimizer = build_optimizer(model, config)
    put_gradients(model, 0)
    silent = [model.embed_tokens.weight, model.layers[0].mlp.down.weight, model.norm.weight]
    before = [p.detach().clone() for p in silent]
    for parameter in silent:
        parameter.grad = None
    moving = model.layers[1].mlp.down.weight.detach().clone()
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(silent, before, strict=True))
    assert all(not optimizer.state.get(p) for p in silent)
    assert not torch.equal(model.layers[1].mlp.down.weight, moving)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_a_gradient_of_zero_only_decays(config: Optim) -> None:
    model = build_model(SHAPE, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 1 - config.lr * config.weight_decay if parameter.ndim > 1 else 1
        torch.testing.assert_close(parameter, before[name] * kept, rtol=1e-6, atol=0)


def test_a_closure_is_run_with_gradients() -> None:
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, AdamW())

    def closure() -> Any:
        loss = model(torch.ones(2)).square().sum()
        loss.backward()
        return loss

    before = model.weight.detach().clone()
    assert float(optimizer.step(closure).detach()) > 0
    assert not torch.equal(model.weight, before)


def with_gradients(*values: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor([value])
    return parameters


def test_gradients_become_those_of_the_mean() -> None:
    parameters = with_gradients(3.0, 4.0)
    assert scale_gradients(parameters, norm=5.0, num_targets=10, clip=0) == pytest.approx(0.5)
    assert [float(p.grad) for p in parameters] == pytest.approx([0.3, 0.4])


def test_clipping_keeps_the_direction() -> None:
    parameters = with_gradients(30.0, -40.0)
    assert scale_gradients(parameters, norm=50.0, num_targets=10, clip=1.0) == pytest.approx(5.0)
    assert [float(p.grad) for p in parameters] == pytest.approx([0.6, -0.8])


def test_a_step_without_targets_is_no_division_by_zero() -> None:
    parameters = with_gradients(1.0)
    assert scale_gradients(parameters, norm=1.0, num_targets=0, clip=1.0) == 0.0
    assert scale_gradients([nn.Parameter(torch.zeros(1))], norm=0.0, num_targets=3, clip=1.0) == 0.0


def test_agrees_with_torch_clipping() -> None:
    ours, theirs = with_gradients(3.0, 4.0, 12.0), with_gradients(3.0, 4.0, 12.0)
    scale_gradients(ours, norm=13.0, num_targets=1, clip=2.0)
    nn.utils.clip_grad_norm_(theirs, 2.0)
    torch.testing.assert_close([p.grad for p in ours], [p.grad for p in theirs], rtol=1e-6, atol=1e-6)
