"""Root-mean-square normalisation (Zhang & Sennrich 2019), computed in fp32 whatever the dtype of the input.

Rounding follows the Llama implementations: the normalised value is cast back before the weight is applied, so that a
bf16 model gives the numbers it was trained with. The backward pass is written out, which saves half of autograd's passes
over memory.

Shapes: `...D` any leading axes, D the normalised axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis; the result has the dtype of `x`."""
    return _norm(x_D, weight_D, eps) if torch.is_grad_enabled() else _forward(x_D, weight_D, eps)[0]


def _forward(x_D: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The result, and what the input was multiplied by."""
    wide_D = x_D.float()
    scale_1 = wide_D.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    normed_D: Tensor = (wide_D * scale_1).to(x_D.dtype)
    return normed_D * weight_D, scale_1


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        y_D, scale_1 = _forward(x_D, weight_D, eps)
        ctx.save_for_backward(x_D, weight_D, scale_1)
        return y_D

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x_D, weight_D, scale_1 = ctx.saved_tensors
        normed_D = x_D.float() * scale_1
        grad_x_D = grad_weight_D = None
        if ctx.needs_input_grad[1]:
            grad_weight_D = (grads[0] * normed_D).flatten(0, -2).sum(0).to(weight_D.dtype)
        if ctx.needs_input_grad[0]:
            inner_D = (grads[0] * weight_D).float()
            share_1 = (inner_D * normed_D).mean(-1, keepdim=True)
            grad_x_D = inner_D.addcmul_(normed_D, share_1, value=-1).mul_(scale_1).to(x_D.dtype)
        return grad_x_D, grad_weight_D, None


_norm: Callable[..., Tensor] = _RMSNorm.apply
