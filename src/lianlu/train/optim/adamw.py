"""AdamW (Loshchilov & Hutter 2019) through PyTorch's fused kernel, on what this process holds of each parameter.

The numbers are those of `torch.optim.AdamW(fused=True)`. State: `step`, `exp_avg`, `exp_avg_sq` under their usual names.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lianlu.train.optim.shards import local, locals_of

State = MutableMapping[str, Tensor]


def new_state(parameter: Tensor) -> dict[str, Tensor]:
    """The state before the first step."""
    step = torch.zeros((), device=local(parameter).device)
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def update(groups: Sequence[Mapping[str, Any]], states: Mapping[Tensor, State]) -> None:
    """One step of every parameter that has a gradient."""
    for group in groups:
        chosen = [p for p in group["params"] if p.grad is not None and local(p).numel()]
        if not chosen:
            continue
        own = [states[p] for p in chosen]
        adamw(
            locals_of(chosen),
            locals_of([p.grad for p in chosen]),
            locals_of([state["exp_avg"] for state in own]),
            locals_of([state["exp_avg_sq"] for state in own]),
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in own],
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )
