"""The linear layer, `x @ weight.T + bias`, with a fast twin for fp32 on x86 processors.

PyTorch sends fp32 products to MKL, which leaves half and more of an AMD processor unused; oneDNN, which PyTorch carries for
bf16, has fp32 kernels that do not. The twin calls them through the operator that PyTorch's own compiler uses
(`mkldnn::_linear_pointwise`), forwards and backwards. It also makes a row independent of the rows beside it: MKL and
oneDNN take another road for a single row, so a single row is computed as two.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HAS_ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for two-dimensional x; differentiable in all three; under autocast in autocast's dtype."""
    wide = x_TI.dtype == weight_OI.dtype == torch.float32 and x_TI.is_cpu and not torch.is_autocast_enabled("cpu")
    if HAS_ONEDNN and wide and x_TI.numel():
        return onednn_linear(x_TI, weight_OI, bias_O)
    return F.linear(x_TI, weight_OI, bias_O)


def onednn_linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """The fast twin: fp32 on the CPU, at least one row."""
    followed = x_TI.requires_grad or weight_OI.requires_grad or (bias_O is not None and bias_O.requires_grad)
    if followed and torch.is_grad_enabled():
        return _differentiable(x_TI, weight_OI, bias_O)
    return onednn_product(x_TI, weight_OI, bias_O)


def onednn_product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` by oneDNN, without gradients."""
    return _product(_dense(x_TI), _dense(weight_OI), bias_O)


def _product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    if len(x_TI) == 1:
        return _product(x_TI.expand(2, -1).contiguous(), weight_OI, bias_O)[:1]
    if torch.compiler.is_compiling():
        hidden_TO: Tensor = _opaque(x_TI, weight_OI, bias_O)
        return hidden_TO
    y_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias_O, "none", [], "")
    return y_TO


@torch.library.custom_op("lianlu::onednn_product", mutates_args=(), schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
def _opaque(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """The same for torch.compile, which takes oneDNN's operator for inference only."""
    return _product(x_TI, weight_OI, bias_O)


@_opaque.register_fake
def _(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    return x_TI.new_empty(x_TI.shape[0], weight_OI.shape[0])


def _dense(matrix: Tensor) -> Tensor:
    """Rows or columns without gaps: for others oneDNN has only its reference code, a thousand times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


class PackedWeight:
    """A weight in the tile order of oneDNN's kernels, for products without gradients: faster by half and more for few rows.

    The product is the same to the bit as that of `linear` on the plain weight.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        self.shape = weight_OI.shape
        self._tiles = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), None)

    def linear(self, x_TI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """`x @ weight.T + bias`, x in the dtype of the weight."""
        return _product(_dense(x_TI), self._tiles, bias_O) if len(x_TI) else x_TI.new_empty(0, self.shape[0])


def can_pack(weight_OI: Tensor) -> bool:
    """Whether this machine has a packed form for a weight of this dtype and device."""
    if not HAS_ONEDNN or not weight_OI.is_cpu:
        return False
    half = weight_OI.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight_OI.dtype == torch.float32 or bool(half)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_TI if ctx.needs_input_grad[1] else None, weight_OI if ctx.needs_input_grad[0] else None)
        y_TO = onednn_product(x_TI, weight_OI, bias_O)
        # a single row is part of a larger result, and autograd lets nobody write into such a part
        return y_TO.clone() if len(y_TO) == 1 else y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x_TI, weight_OI = ctx.saved_tensors
        grad_TO = grads[0].contiguous()
        grad_TI = None if weight_OI is None else onednn_product(grad_TO, weight_OI.t())
        grad_OI = None if x_TI is None else onednn_product(grad_TO.t(), x_TI.t())
        return grad_TI, grad_OI, grad_TO.sum(0) if ctx.needs_input_grad[2] else None


_differentiable: Callable[..., Tensor] = _OneDnnLinear.apply
