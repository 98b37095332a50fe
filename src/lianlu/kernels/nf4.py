"""Linear layers with weights in NF4, the four-bit type of QLoRA (arXiv 2305.14314), in plain torch for any device.

A weight is one of 16 levels (quantiles of a normal distribution, -1 to 1) times the largest absolute value of its block of
64 inputs. These steps are quantised again: their mean is taken off, and blocks of 256 of what is left become 8-bit numbers
of a dynamic type (arXiv 2110.02861), each block relative to its largest. Memory: 4.127 bits a weight; 4.5 without the second
step. Codes, steps and the order of the nibbles are those of bitsandbytes.

    codes_OJ    uint8 [O, I / 2]      byte j holds the level of input 2 j in its high four bits, that of 2 j + 1 in its low
    steps_OG    uint8 [O, I / 64]     8-bit steps, or fp32 [O, I / 64] where they are not quantised again
    scale_S     fp32  [O I / 16384]   largest value of each 256 steps, over rows; the last block may be short
    mean        fp32  []              of all steps of the matrix

Products widen the weight a slice at a time into the dtype of `x` (bf16 under autocast), rounded once, so that a slice is all
that ever exists in full width. Nothing wide is kept for the backward pass: it widens again. A byte is looked up as a
pair of fp32 levels in one move of eight bytes, which is the fastest way found on a processor (0.4 ns a weight on one core).

Limits: inputs come in whole blocks of 64; the weight is fixed, there is no gradient to it.

Shapes: T tokens, I inputs, O outputs, J = I / 2 bytes of a row, G = I / 64 blocks of a row, S blocks of 256 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lianlu.kernels.blockwise8 import dynamic_values
from lianlu.kernels.linear import linear

BLOCK = 64
STEP_BLOCK = 256
# quantiles as the QLoRA paper's appendix has them, with an exact zero
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# weights widened at once for a product, and looked up at once: the one bounds memory, the other stays in the cache
SLICE_WEIGHTS = 1 << 23
LOOKUP_WEIGHTS = 1 << 18
TINY = 1e-38
# bins of [-1, 1], so fine that each holds one end of a level at most
BINS = 64


@dataclass(frozen=True)
class Nf4:
    """A weight in NF4; without `scale_S` and `mean` its steps are plain fp32."""

    codes_OJ: Tensor
    steps_OG: Tensor
    scale_S: Tensor | None = None
    mean: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.codes_OJ.shape[0], 2 * self.codes_OJ.shape[1]

    def steps(self) -> Tensor:
        """steps_OG in fp32."""
        if self.scale_S is None or self.mean is None:
            return self.steps_OG
        wide = _step_levels(self.steps_OG.device).index_select(0, self.steps_OG.flatten().int())
        wide_SB = F.pad(wide, (0, -len(wide) % STEP_BLOCK)).view(-1, STEP_BLOCK).mul_(self.scale_S[:, None])
        return wide_SB.flatten()[: len(wide)].add_(self.mean).view(self.steps_OG.shape)


def quantise(weight_OI: Tensor, double: bool = True) -> Nf4:
    """The weight in NF4, its steps quantised again if `double`; I is a multiple of 64."""
    codes_OJ, steps_OG = quantise_blocks(weight_OI)
    return Nf4(codes_OJ, *quantise_steps(steps_OG)) if double else Nf4(codes_OJ, steps_OG)


def quantise_blocks(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """codes_OJ and fp32 steps_OG: the nearest level of each weight, with a few rows in fp32 at a time."""
    num_rows, num_inputs = weight_OI.shape
    codes_OJ = torch.empty(num_rows, num_inputs // 2, dtype=torch.uint8, device=weight_OI.device)
    steps_OG = torch.empty(num_rows, num_inputs // BLOCK, device=weight_OI.device)
    for rows in _slices(num_rows, _rows_at_once(num_inputs, weight_OI.device)):
        blocks_NB = weight_OI[rows].detach().float().reshape(-1, BLOCK)
        steps_N = blocks_NB.abs().amax(1)
        nearest_RI = _nearest(blocks_NB * (1.0 / steps_N.clamp(min=TINY))[:, None]).view(-1, num_inputs)
        codes_OJ[rows] = nearest_RI[:, ::2] << 4 | nearest_RI[:, 1::2]
        steps_OG[rows] = steps_N.view(-1, num_inputs // BLOCK)
    return codes_OJ, steps_OG


def _nearest(values: Tensor) -> Tensor:
    """Numbers (uint8) of the levels nearest to values in [-1, 1], flat: those below the value's bin, and one more or not."""
    below, end = _bins(values.device)
    flat = values.flatten()
    bins = ((flat + 1) * (BINS / 2)).int().clamp_(0, BINS - 1)
    return below.index_select(0, bins).add_(flat > end.index_select(0, bins))


def quantise_steps(steps_OG: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """8-bit steps_OG, scale_S and mean."""
    mean = steps_OG.mean()
    flat = (steps_OG - mean).flatten()
    blocks_SB = F.pad(flat, (0, -len(flat) % STEP_BLOCK)).view(-1, STEP_BLOCK)
    scale_S = blocks_SB.abs().amax(1)
    known = _step_levels(steps_OG.device)
    codes_SB = torch.bucketize(blocks_SB * (1.0 / scale_S.clamp(min=TINY))[:, None], (known[:-1] + known[1:]) / 2, out_int32=True)
    return codes_SB.flatten()[: len(flat)].to(torch.uint8).view(steps_OG.shape), scale_S, mean


def dequantise(codes_OJ: Tensor, steps_OG: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights that codes and fp32 steps stand for, rounded once to `dtype`; both may be slices of whole blocks."""
    num_rows, num_bytes = codes_OJ.shape
    wide_OI = torch.empty(num_rows, 2 * num_bytes, dtype=dtype, device=codes_OJ.device)
    pairs = _pairs(codes_OJ.device)
    for rows in _slices(num_rows, _rows_at_once(2 * num_bytes, codes_OJ.device)):
        looked_up = pairs.index_select(0, codes_OJ[rows].flatten().int()).view(torch.float32)
        blocks = looked_up.view(-1, steps_OG.shape[1], BLOCK).mul_(steps_OG[rows, :, None])
        wide_OI[rows].view(blocks.shape).copy_(blocks)
    return wide_OI


def nf4_linear(x_TI: Tensor, weight: Nf4, bias_O: Tensor | None = None) -> Tensor:
    """`x @ dequantised.T + bias` in the dtype of `x`, under autocast in autocast's; differentiable in `x` and `bias`."""
    device = x_TI.device.type
    if torch.is_autocast_enabled(device):
        x_TI = x_TI.to(torch.get_autocast_dtype(device))
    y_TO = _product(x_TI, weight.codes_OJ, weight.steps_OG, weight.scale_S, weight.mean)
    return y_TO if bias_O is None else y_TO + bias_O.to(y_TO.dtype)


class _Nf4Product(torch.autograd.Function):
    """Keeps only the codes for the backward pass, where autograd would keep the widened weight."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, codes_OJ: Tensor, steps_OG: Tensor, scale_S: Tensor | None, mean: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(codes_OJ, steps_OG, scale_S, mean)
        y_TO: Tensor = _times_transposed(x_TI, codes_OJ, steps_OG, scale_S, mean)
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _times(grads[0], *ctx.saved_tensors), None, None, None, None


# One operator for each pass: whoever keeps products for a backward pass, or compiles, need not look into the widening.
WEIGHT = "Tensor codes, Tensor steps, Tensor? scale, Tensor? mean"


@torch.library.custom_op("lianlu::nf4_product", mutates_args=(), schema=f"(Tensor x, {WEIGHT}) -> Tensor")
def _times_transposed(x_TI: Tensor, codes_OJ: Tensor, steps_OG: Tensor, scale_S: Tensor | None, mean: Tensor | None) -> Tensor:
    """`x @ dequantised.T`, a slice of outputs at a time."""
    steps_OG = Nf4(codes_OJ, steps_OG, scale_S, mean).steps()
    num_rows, num_inputs = len(codes_OJ), x_TI.shape[1]
    y_TO = x_TI.new_empty(len(x_TI), num_rows)
    with torch.autocast(x_TI.device.type, enabled=False):
        for rows in _slices(num_rows, max(1, SLICE_WEIGHTS // num_inputs)):
            y_TO[:, rows] = linear(x_TI, dequantise(codes_OJ[rows], steps_OG[rows], x_TI.dtype))
    return y_TO


@_times_transposed.register_fake
def _(x_TI: Tensor, codes_OJ: Tensor, steps_OG: Tensor, scale_S: Tensor | None, mean: Tensor | None) -> Tensor:
    return x_TI.new_empty(x_TI.shape[0], codes_OJ.shape[0])


@torch.library.custom_op("lianlu::nf4_gradient", mutates_args=(), schema=f"(Tensor grad, {WEIGHT}) -> Tensor")
def _times(grad_TO: Tensor, codes_OJ: Tensor, steps_OG: Tensor, scale_S: Tensor | None, mean: Tensor | None) -> Tensor:
    """`grad @ dequantised`, a slice of inputs at a time, so that no sum over outputs is broken up and rounded on the way."""
    grad_TO = grad_TO.contiguous()
    steps_OG = Nf4(codes_OJ, steps_OG, scale_S, mean).steps()
    num_rows, num_blocks = steps_OG.shape
    grad_TI = grad_TO.new_empty(len(grad_TO), num_blocks * BLOCK)
    with torch.autocast(grad_TO.device.type, enabled=False):
        for part in _slices(num_blocks, max(1, SLICE_WEIGHTS // (num_rows * BLOCK))):
            inputs = slice(part.start * BLOCK, part.stop * BLOCK)
            own = dequantise(codes_OJ[:, inputs.start // 2 : inputs.stop // 2], steps_OG[:, part], grad_TO.dtype)
            grad_TI[:, inputs] = linear(grad_TO, own.t())
    return grad_TI


@_times.register_fake
def _(grad_TO: Tensor, codes_OJ: Tensor, steps_OG: Tensor, scale_S: Tensor | None, mean: Tensor | None) -> Tensor:
    return grad_TO.new_empty(grad_TO.shape[0], 2 * codes_OJ.shape[1])


_product: Callable[..., Tensor] = _Nf4Product.apply


@cache
def _step_levels(device: torch.device) -> Tensor:
    """The 256 values of an 8-bit step, rising, -0.99 to 1."""
    return dynamic_values(signed=True).to(device)


@cache
def _pairs(device: torch.device) -> Tensor:
    """Two fp32 levels for each byte, as one whole number of 64 bits."""
    levels = torch.tensor(LEVELS, device=device)
    return torch.stack((levels.repeat_interleave(16), levels.repeat(16)), dim=1).view(torch.int64).flatten()


@cache
def _bins(device: torch.device) -> tuple[Tensor, Tensor]:
    """For each bin: the number of levels that end below it, and the end of the next one."""
    levels = torch.tensor(LEVELS, device=device)
    ends = (levels[:-1] + levels[1:]) / 2
    below = torch.bucketize(torch.linspace(-1, 1, BINS + 1, device=device)[:-1], ends)
    return below.to(torch.uint8), torch.cat((ends, ends.new_tensor([2.0])))[below]


def _rows_at_once(num_inputs: int, device: torch.device) -> int:
    return max(1, (LOOKUP_WEIGHTS if device.type == "cpu" else SLICE_WEIGHTS) // num_inputs)


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
