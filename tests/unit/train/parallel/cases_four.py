"""Four processes: kinds of parallelism composed, against one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from lianlu.model.config import ModelConfig
from lianlu.train.parallel.gather import whole

TABLES: dict[str, dict[str, Any]] = {
    "two replicas of two shards": {"shard_size": 2},
    "the same, whole between passes": {"shard_size": 2, "sharding": "gradient"},
    "shards and matrices": {"tensor": 2},
    "shards and tokens": {"sequence": 2},
    "copies and tokens": {"sequence": 2, "sharding": "none"},
    "tokens and matrices": {"sequence": 2, "tensor": 2},
}
STEPS = 2
# head count and vocabulary divide by 4 tensor x sequence, and F is odd for FSDP over two tensor parallel processes
SHAPE = {**tiny.SHAPE, "intermediate_size": 50, "vocab_size": 66, "num_hidden_layers": 1}


def case_compositions_take_the_steps_of_one_process(world: Any) -> None:
    config = ModelConfig(**SHAPE)
    with world.alone():
        layout = tiny.layout_of()
        model = tiny.make(layout, config)
        wanted, state = tiny.train(layout, model, STEPS), tiny.whole_state(model)
    for name, table in TABLES.items():
        layout = tiny.layout_of(**table)
        divided = tiny.make(layout, config)
        np.testing.assert_allclose(tiny.train(layout, divided, STEPS), wanted, rtol=1e-5, err_msg=name)
        tiny.same(tiny.whole_state(divided), state, 2e-6)


def case_processes_of_a_group_see_the_same_data(world: Any) -> None:
    layout = tiny.layout_of(tensor=2)
    assert (layout.num_data, layout.data_rank) == (2, world.rank // 2)
    layout = tiny.layout_of(sequence=2, tensor=2)
    assert (layout.num_data, layout.data_rank) == (1, 0)
    layout = tiny.layout_of(shard_size=2)
    assert (layout.num_data, layout.data_rank) == (4, world.rank)


def case_every_parameter_is_on_one_mesh(world: Any) -> None:
    model = tiny.make(tiny.layout_of(tensor=2), ModelConfig(**{**SHAPE, "attention_bias": True}))
    assert {parameter.device_mesh for parameter in model.parameters()} == {model.norm.weight.device_mesh}
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    held = torch.tensor(sum(matrix.to_local().numel() for matrix in matrices))
    dist.all_reduce(held)
    assert held == sum(matrix.numel() for matrix in matrices)


def case_norms_of_composed_layouts(world: Any) -> None:
    for table in TABLES.values():
        layout = tiny.layout_of(**table)
        model = tiny.make(layout, ModelConfig(**SHAPE))
        tensors = [whole(tensor) for tensor in model.parameters()]
        wanted = float(torch.cat([tensor.flatten() for tensor in tensors]).double().norm())
        assert all(isinstance(tensor, DTensor) for tensor in model.parameters())
        assert layout.norm([tensor.detach() for tensor in model.parameters()]) == pytest.approx(wanted, rel=1e-6)
