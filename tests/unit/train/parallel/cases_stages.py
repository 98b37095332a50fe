"""Two stages of a pipeline, each of two processes that divide data, matrices or tokens, against one process."""

from __future__ import annotations

from typing import Any

import tiny
import torch

from lianlu.model.config import ModelConfig
from lianlu.train.parallel.gather import gathered

STEPS = 2
CONFIG = ModelConfig(**{**tiny.SHAPE, "num_hidden_layers": 2})


def case_stages_compose_with_every_other_way_to_divide(world: Any) -> None:
    with world.alone():
        at = tiny.layout_of()
        model = tiny.make(at, CONFIG)
        wanted, weights = tiny.train(at, model, STEPS), dict(gathered(model))
    for table in ({}, {"sharding": "gradient"}, {"tensor": 2}, {"sequence": 2}):
        at = tiny.layout_of(pipeline=2, **table)
        model = tiny.make(at, CONFIG)
        got = tiny.train(at, model, STEPS)
        torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=1e-5, atol=0.0)
        tiny.same(dict(gathered(model)), weights, 1e-5)
