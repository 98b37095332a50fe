"""AdamW (Loshchilov & Hutter 2019) over parameter groups, and the gradient's global norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lianlu.train.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters; vectors (norms, biases) are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], num_targets: int, clip: float) -> float:
    """Turn summed gradients into the gradient of the mean over `num_targets`, clipped to a global norm; returns the norm.

    One division serves both. The norm returned is that before clipping; `clip` 0 means no clipping.
    """
    grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    if not grads or num_targets == 0:
        return 0.0
    norm = float(torch.nn.utils.get_total_norm(grads)) / num_targets
    factor = 1.0 / num_targets
    if clip and norm > clip:
        factor *= clip / norm
    torch._foreach_mul_(grads, factor)
    return norm
