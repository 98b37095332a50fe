"""The optimiser of a run, and what is done to its gradients: from a sum over targets to a clipped mean."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lianlu.train.config import Optim


def build_optimizer(model: nn.Module, config: Optim) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters; vectors (norms, biases) are not decayed.

    A group's `scale` multiplies the learning rate that the loop sets.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay, "scale": 1.0},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, "scale": 1.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], norm: float, num_targets: int, clip: float) -> float:
    """Turn summed gradients of global norm `norm` into the gradient of the mean over `num_targets`, clipped; returns its norm.

    One division serves both. The norm returned is that before clipping; `clip` 0 means no clipping.
    """
    grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    if not grads or num_targets == 0:
        return 0.0
    factor = 1.0 / num_targets
    if clip and norm * factor > clip:
        factor = clip / norm
    torch._foreach_mul_(grads, factor)
    return norm / num_targets
