"""A model of a dozen weights, one of them fused as gate and up, one frozen; and optimisers with states of odd shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lianlu.core.config import validate
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.config import CheckpointConfig, TrainConfig
from lianlu.train.parallel.layout import Layout

HALF = 3
WIDTH = 4


class Tiny(nn.Module):
    """`gate_up` is (2F, D), as in a decoder in one process."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * HALF, bias=False)
        self.mlp = nn.ModuleDict({"gate_up": nn.Linear(width, 2 * HALF, bias=False)})
        self.down = nn.Linear(HALF, 1)
        self.down.bias.requires_grad_(False).fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.mlp["gate_up"](x).chunk(2, dim=-1)
        total: Tensor = self.down(gate * up + self.gate_up(x)[..., :HALF]).square().sum()
        return total


class Odd(torch.optim.Optimizer):
    """Holds what an 8-bit optimiser holds: codes of the parameter's shape, scales of blocks of columns, a scalar step."""

    def __init__(self, parameters: Any, lr: float = 0.1, block: int = 3) -> None:
        super().__init__(parameters, {"lr": lr, "block": block})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    rows = -(-parameter.shape[-1] // group["block"])
                    state["step"] = torch.zeros(())
                    state["codes"] = torch.zeros_like(parameter, dtype=torch.uint8)
                    state["absmax"] = torch.zeros(*parameter.shape[:-1], rows)
                state["step"] += 1
                state["codes"] += (parameter.grad.abs() * 100).to(torch.uint8)
                state["absmax"] += parameter.grad.abs().amax(dim=-1, keepdim=True)
                parameter.sub_(parameter.grad, alpha=group["lr"])


Run = tuple[nn.Module, torch.optim.Optimizer]


def make_run(optimizer: str = "adamw", seed: int = 0, num_steps: int = 1, width: int = WIDTH) -> Run:
    """A model and its optimiser after some steps."""
    torch.manual_seed(seed)
    model = Tiny(width)
    parameters = [p for p in model.parameters() if p.requires_grad]
    made: torch.optim.Optimizer
    if optimizer == "odd":
        made = Odd(parameters)
    else:
        made = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1, fused=True)
    for _ in range(num_steps):
        one_step(model, made)
    return model, made


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.rand(2, WIDTH)).backward()
    optimizer.step()
    optimizer.zero_grad()


def same(first: Run, second: Run) -> bool:
    """Whether weights and optimiser states are equal to the bit."""
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
