"""The optimiser of a run, and what is done to its gradients: from a sum over targets to a clipped mean.

One `torch.optim.Optimizer` for all kinds: each of its groups names the update that its parameters get (`adamw.py`,
`adamw8.py`, `muon.py`), and all states are in one dictionary by parameter. Its parameters may be DTensors; states are then
divided like them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lianlu.train.config import Optim
from lianlu.train.optim import adamw, adamw8, muon
from lianlu.train.optim.groups import parameter_groups
from lianlu.train.optim.shards import locals_of

Update = Callable[[Sequence[Mapping[str, Any]], Mapping[Tensor, adamw.State]], None]
NEW_STATE = {"adamw": adamw.new_state, "adamw8": adamw8.new_state, "muon": muon.new_state}


class Optimizer(torch.optim.Optimizer):
    """Groups with an `update` each, and the states of all of them."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        self._updates: dict[str, Update] = {"adamw": adamw.update, "adamw8": adamw8.update, "muon": muon.MuonUpdate()}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every parameter that has a gradient; `closure` may compute them and its result is passed on."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        by_update: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for group in self.param_groups:
            by_update[group["update"]].append(group)
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = NEW_STATE[group["update"]](parameter)
        for name, groups in by_update.items():
            self._updates[name](groups, self.state)
        return loss

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in PyTorch, but tensors keep their number type: codes are bytes, whatever their parameter is."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        places = [place for group in state_dict["param_groups"] for place in group["params"]]
        init_state(self)
        for place, parameter in zip(places, parameters, strict=True):
            for key, value in state_dict["state"].get(place, {}).items():
                self.state[parameter][key].copy_(value)


def build_optimizer(model: nn.Module, config: Optim, part: bool = False) -> Optimizer:
    """The optimiser over the trainable parameters; vectors (norms, biases) are not decayed.

    A group's `scale` multiplies the learning rate that the loop sets. `part`: the model is a part of one (pipeline).
    Raises: ConfigError if a rule of `config.groups` finds nothing, or the model has no matrix for Muon.
    """
    return Optimizer(parameter_groups(model, config, part))


@torch.no_grad()
def init_state(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter that has none the state it has before its first step, for loading into."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = NEW_STATE[group["update"]](parameter)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], norm: float, num_targets: int, clip: float) -> float:
    """Turn summed gradients of global norm `norm` into the gradient of the mean over `num_targets`, clipped; returns its norm.

    One division serves both. The norm returned is that before clipping; `clip` 0 means no clipping.
    """
    grads = locals_of([p.grad for p in parameters if p.grad is not None])
    if not grads or num_targets == 0:
        return 0.0
    factor = 1.0 / num_targets
    if clip and norm * factor > clip:
        factor = clip / norm
    torch._foreach_mul_(grads, factor)
    return norm / num_targets
