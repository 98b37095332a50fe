"""SwiGLU's gate (Shazeer 2020), `silu(gate) * up`, on the two halves of one fused projection.

The backward pass is written out: it fills the gradient of the fused tensor half by half, where autograd would make two
tensors and join them, and it keeps the input only.

Shapes: T tokens, F intermediate_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def swiglu(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` (T, F) of the fused projection (T, 2F) that holds the gate in its first half."""
    if torch.compiler.is_compiling():
        # the compiler fuses both passes by itself, and cannot follow the writing into halves below
        gate_TF, up_TF = gate_up.chunk(2, dim=-1)
        return F.silu(gate_TF) * up_TF
    return _gate(gate_up) if torch.is_grad_enabled() else _forward(gate_up)


def _forward(gate_up: Tensor) -> Tensor:
    gate_TF, up_TF = gate_up.chunk(2, dim=-1)
    return F.silu(gate_TF).mul_(up_TF)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _forward(gate_up)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (gate_up,) = ctx.saved_tensors
        gate_TF, up_TF = gate_up.chunk(2, dim=-1)
        grad = torch.empty_like(gate_up)
        grad_gate_TF, grad_up_TF = grad.chunk(2, dim=-1)
        torch.mul(grads[0], F.silu(gate_TF), out=grad_up_TF)
        torch.ops.aten.silu_backward(grads[0] * up_TF, gate_TF, grad_input=grad_gate_TF)
        return grad


_gate: Callable[..., Tensor] = _SwiGLU.apply
