"""Linear layers with int8 weights: symmetric, one fp32 scale for each output channel, activations as they are.

The weight is widened block by block, so that a large matrix never exists in full width; the scale is applied to the
result. A row of the result depends on its own row of the input only, as far as the matrix product of PyTorch keeps that.
PyTorch's `_weight_int8pack_mm` is faster for one to four rows of bf16, but slower by 3-4x for a prompt, and switching
between the two would let the size of a batch change a row; hence one path.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lianlu.kernels.linear import linear

BLOCK_WEIGHTS = 1 << 20
LEVELS = 127


def quantise_rows(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """int8 weights and fp32 scales_O, so that `weight` is near `quantised * scale`; the largest of a row becomes 127."""
    wide_OI = weight_OI.detach().float()
    scale_O = wide_OI.abs().amax(dim=1) / LEVELS
    divisor_O = torch.where(scale_O > 0, scale_O, torch.ones_like(scale_O))
    return (wide_OI / divisor_O[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale_O


def dequantise_rows(weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """The fp32 weights that int8 weights and scales stand for."""
    return weight_OI.float() * scale_O.float()[:, None]


def int8_linear(x_TI: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x @ (weight * scale).T + bias` in the dtype of `x`; differentiable in `x` and `bias`, the weight is fixed."""
    y_TO = _product(x_TI, weight_OI, scale_O)
    return y_TO if bias_O is None else y_TO + bias_O


def _blocks(weight_OI: Tensor) -> tuple[Tensor, ...]:
    return torch.split(weight_OI, max(1, BLOCK_WEIGHTS // weight_OI.shape[1]))


class _Int8Product(torch.autograd.Function):
    """Keeps only the int8 weight for the backward pass, where autograd would keep the widened one."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
        ctx.save_for_backward(weight_OI, scale_O)
        parts = [linear(x_TI, block_OI.to(x_TI.dtype)) for block_OI in _blocks(weight_OI)]
        y_TO = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return (y_TO * scale_O).to(x_TI.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        weight_OI, scale_O = ctx.saved_tensors
        grad_TO = grads[0]
        scaled_TO = (grad_TO * scale_O).to(grad_TO.dtype)
        blocks = _blocks(weight_OI)
        grad_TI = torch.zeros(*grad_TO.shape[:-1], weight_OI.shape[1], dtype=grad_TO.dtype, device=grad_TO.device)
        for part_TO, block_OI in zip(torch.split(scaled_TO, [len(b) for b in blocks], dim=-1), blocks, strict=True):
            grad_TI += part_TO @ block_OI.to(grad_TO.dtype)
        return grad_TI, None, None


_product: Callable[..., Tensor] = _Int8Product.apply
