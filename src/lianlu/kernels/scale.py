"""`y * scale` with one fp32 number for each output, in the dtype of `y`: the magnitudes of DoRA.

Numbers near 1 do not survive in bf16 (its next one is 1.0078), so the product is formed in fp32 and rounded once, a block of
rows at a time.

Shapes: T tokens, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 20


def scale_columns(y_TO: Tensor, scale_O: Tensor) -> Tensor:
    """`y * scale` in the dtype of `y`; differentiable in both, the gradient of `scale` is fp32."""
    if torch.compiler.is_compiling():
        # fused, nothing wide is written down, and a loop over blocks would hold for one number of rows only
        return (y_TO.float() * scale_O).to(y_TO.dtype)
    return _scaled(y_TO, scale_O)


def _blocks(y_TO: Tensor) -> range:
    return range(0, len(y_TO), max(1, BLOCK_VALUES // y_TO.shape[1]))


class _ScaleColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_TO: Tensor, scale_O: Tensor) -> Tensor:
        ctx.save_for_backward(y_TO, scale_O)
        return _times(y_TO, scale_O)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        y_TO, scale_O = ctx.saved_tensors
        grad_TO = grads[0]
        grad_O = torch.zeros_like(scale_O)
        blocks = _blocks(y_TO)
        for start in blocks:
            rows = slice(start, start + blocks.step)
            grad_O += (grad_TO[rows].float() * y_TO[rows]).sum(0)
        return _times(grad_TO, scale_O), grad_O


def _times(y_TO: Tensor, scale_O: Tensor) -> Tensor:
    if y_TO.dtype == scale_O.dtype:
        return y_TO * scale_O
    scaled_TO = torch.empty_like(y_TO)
    blocks = _blocks(y_TO)
    for start in blocks:
        rows = slice(start, start + blocks.step)
        scaled_TO[rows] = y_TO[rows] * scale_O
    return scaled_TO


_scaled: Callable[..., Tensor] = _ScaleColumns.apply
