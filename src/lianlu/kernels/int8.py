"""Linear layers with int8 weights: symmetric, one fp32 scale for each output channel, activations as they are.

The reference, `int8_linear`, widens the weight block by block, so that a large matrix never exists in full width; the
scale is applied to the result. It is differentiable, and a row depends on its own row of the input only, as far as the
matrix product of PyTorch keeps that.

The fast twin, `PackedInt8`, is for serving on x86 processors with VNNI. Each row of the input is written in fixed point
with 16 bits, relative to its largest value, and handed to oneDNN's int8 product as two rows of bytes. The sums are whole
numbers and therefore exact in any order, so that a row has the same bits in a batch of any size; 16 bits keep the
result as near to the reference as its own rounding in bf16 is (activations of 8 bits cost ten times the divergence that
int8 weights do). PyTorch's `_weight_int8pack_mm` is faster for one to four rows of bf16, but slower by 3-4x for a prompt,
and switching between the two would let the size of a batch change a row; hence one path.

Limits of the twin: no gradients; without VNNI oneDNN's int8 sums may saturate, so it is not used there; sums are exact up
to 66,000 inputs.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lianlu.core import machine
from lianlu.kernels.linear import HAS_ONEDNN, linear

BLOCK_WEIGHTS = 1 << 20
LEVELS = 127
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni"})
MAX_INPUTS = (1 << 31) // (255 * LEVELS)
# two unsigned bytes, each with its zero at 128: the high one counts 256
STEPS = 32_639
ZERO = 128
MIDDLE = 257 * ZERO
TINY = 1e-30


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


class PackedInt8:
    """The fast twin: an int8 weight in the tile order of oneDNN's kernels, for products without gradients."""

    def __init__(self, weight_OI: Tensor, scale_O: Tensor) -> None:
        self.shape = weight_OI.shape
        self._scale_O = scale_O
        self._zero_O = torch.zeros(len(scale_O), dtype=torch.int32)
        self._tiles = torch.ops.onednn.qlinear_prepack(weight_OI.contiguous(), None)

    def linear(self, x_TI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """`x @ (weight * scale).T + bias` in the dtype of `x`; a row that is not finite gives one that is not."""
        num_rows = len(x_TI)
        if not num_rows:
            return x_TI.new_empty(0, self.shape[0])
        bytes_2TI, step_T1 = two_bytes(x_TI)
        y_2TO: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(bytes_2TI, 1.0, ZERO, self._tiles, self._scale_O, self._zero_O, None, 1.0, 0, torch.float32, "none", [], "")
        )
        y_TO = y_2TO[:num_rows].add_(y_2TO[num_rows:], alpha=256).mul_(step_T1)
        return (y_TO if bias_O is None else y_TO.add_(bias_O)).to(x_TI.dtype)


def two_bytes(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in fixed point: bytes_2TI, all low ones before all high ones, and step_T1 in fp32.

    `x` is near `step * ((low - 128) + 256 * (high - 128))`, within half a step; a step is the largest value / 32639.
    """
    step_T1 = x_TI.abs().amax(1, keepdim=True).float().clamp_(min=TINY).div_(STEPS)
    whole_TI = (x_TI / step_T1).add_(MIDDLE + 0.5).to(torch.int32)
    bytes_2TI = torch.empty(2 * len(x_TI), x_TI.shape[1], dtype=torch.uint8)
    bytes_2TI[: len(x_TI)].copy_(whole_TI)
    bytes_2TI[len(x_TI) :].copy_(whole_TI >> 8)
    return bytes_2TI, step_T1


def can_pack_int8(weight_OI: Tensor) -> bool:
    """Whether this machine has the fast twin for a weight of this shape and device."""
    return HAS_ONEDNN and _has_vnni() and weight_OI.is_cpu and weight_OI.shape[1] <= MAX_INPUTS


@cache
def _has_vnni() -> bool:
    return bool(machine.cpu_flags() & VNNI_FLAGS)
