"""A step on shards is the step on the whole: each optimiser, in several layouts, against one process that holds everything."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F

from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.train.config import AdamW, AdamW8, GroupRule, Muon, Optim
from lianlu.train.optim.build import Optimizer, build_optimizer, init_state, scale_gradients, set_rate

# rows of 320 and 100 elements: blocks of 256 that end early, and that processes which divide rows share; 65 tokens: uneven
SHAPE = ModelConfig(
    vocab_size=65,
    hidden_size=320,
    intermediate_size=100,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_bias=True,
)
RULES = (GroupRule(match="wo", lr=0.5, weight_decay=0.3),)
OPTIMISERS: list[Optim] = [
    AdamW(groups=RULES),
    AdamW8(groups=RULES, embedding_bits=8),
    Muon(groups=RULES, adamw_lr=3e-4, precision="float32"),
]
STEPS = 2


class Gates(nn.Module):
    """Gate and up as they are in a divided model."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().unflatten(0, (2, -1)).clone())


def meshes(size: int) -> dict[str, tuple[DeviceMesh, Any]]:
    """Layouts by name: a mesh, and what is done with a parameter on it."""

    def rows(name: str, parameter: Tensor) -> list[Any]:
        return [Shard(1 if parameter.ndim == 3 else 0)]

    def tensor(name: str, parameter: Tensor) -> list[Any]:
        if parameter.ndim == 1:
            return [Replicate()]
        return [Shard(1)] if "wo" in name or "down" in name or parameter.ndim == 3 else [Shard(0)]

    def last(name: str, parameter: Tensor) -> list[Any]:
        return [Shard(parameter.ndim - 1)]

    inner = max(size // 2, 1)
    flat = init_device_mesh("cpu", (size,))
    replicas = init_device_mesh("cpu", (2, inner), mesh_dim_names=("replica", "shard"))
    both = init_device_mesh("cpu", (inner, 2), mesh_dim_names=("shard", "tensor"))
    return {
        "rows": (flat, rows),
        "tensor": (flat, tensor),
        "last axis": (flat, last),
        "whole": (flat, lambda name, parameter: [Replicate()]),
        "replicas": (replicas, lambda name, parameter: [Replicate(), *rows(name, parameter)]),
        "rows and tensor": (both, lambda name, parameter: [*rows(name, parameter), *tensor(name, parameter)]),
    }


def divided_model(mesh: DeviceMesh, placements: Any) -> Decoder:
    model = build_model(SHAPE, 0)
    for block in model.layers:
        block.mlp.gate_up = Gates(block.mlp.gate_up.weight)
    for name, parameter in list(model.named_parameters()):
        owner, _, last = name.rpartition(".")
        spread = distribute_tensor(parameter.detach(), mesh, placements(name, parameter))
        setattr(model.get_submodule(owner), last, nn.Parameter(spread))
    return model


@cache
def gradients(seed: int) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(name, parameter.shape) for name, parameter in build_model(SHAPE, 0).named_parameters()]
    return [(name, torch.randn(shape, generator=generator) * 0.1 ** (seed + len(name) % 3)) for name, shape in shapes]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trained(model: Decoder, config: Optim) -> Optimizer:
    """The optimiser after a few steps with made-up gradients."""
    optimizer = build_optimizer(model, config)
    parameters = dict(model.named_parameters())
    for step in range(STEPS):
        for name, grad in gradients(step):
            owner = parameters[name]
            shaped = grad.view(owner.shape).clone()
            owner.grad = distribute_tensor(shaped, owner.device_mesh, owner.placements) if isinstance(owner, DTensor) else shaped
        scale_gradients(parameters.values(), norm=20.0, num_targets=2, clip=1.0)
        set_rate(optimizer, config.lr * (1 - 0.1 * step))
        optimizer.step()
    return optimizer


def check_equal(got: Tensor, wanted: Tensor, exact: bool) -> None:
    wanted = wanted.view(got.shape)
    if exact:
        assert torch.equal(got, wanted)
    else:
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


def case_sharded_steps_are_whole_steps(world: Any) -> None:
    layouts = meshes(world.size)
    for config in OPTIMISERS:
        plain = build_model(SHAPE, 0)
        wanted, expected = trained(plain, config), dict(plain.named_parameters())
        for mesh, placements in layouts.values():
            model = divided_model(mesh, placements)
            optimizer = trained(model, config)
            for name, parameter in model.named_parameters():
                exact = config.kind != "muon"
                check_equal(whole(parameter), expected[name], exact)
                state, target = optimizer.state[parameter], wanted.state[expected[name]]
                assert set(state) == set(target)
                for key in state:
                    check_equal(whole(state[key]), target[key], exact)


def case_states_are_divided_like_parameters(world: Any) -> None:
    for config in OPTIMISERS:
        mesh, placements = meshes(world.size)["rows"]
        optimizer = build_optimizer(divided_model(mesh, placements), config)
        init_state(optimizer)
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                assert key == "step" or value.placements == parameter.placements
                assert key == "step" or value.to_local().shape[:-1] == parameter.to_local().shape[:-1]


def case_fsdp2_trains_to_the_same_weights(world: Any) -> None:
    ids = torch.randint(65, (24,), generator=torch.Generator().manual_seed(0))
    for config in OPTIMISERS:
        found = []
        for divide in (False, True):
            model = build_model(SHAPE, 0)
            for unit in [*model.layers, model] if divide else []:
                fully_shard(unit, mesh=init_device_mesh("cpu", (world.size,)))
            optimizer = build_optimizer(model, config)
            for _ in range(STEPS):
                logits = model(ids, torch.arange(24), PackedCausal((0, 24)))
                F.cross_entropy(logits[:-1], ids[1:]).backward()
                optimizer.step()
                optimizer.zero_grad()
            found.append([whole(parameter.detach()) for parameter in model.parameters()])
        # codes may differ where sums of two equal halves round differently
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=2e-5 if config.kind == "adamw8" else 1e-6)
