"""Linear layers with int4 weights in groups of 32 inputs, rounded to nearest; activations as they are.

A weight is one of 16 levels, `(level - 8) * scale + zero`, with a scale and a zero (the value of level 8) for each group of
32 inputs of an output. Both are bf16, and levels are chosen for the rounded ones. The groups are the
blocks of GGUF's Q4_0 and Q4_1, so that weights out of such files stay nearly what they are. Memory: 5 bits a weight.

    weight_OJ   uint8 [O, I / 2]    byte j holds the level of input 2 j in its low four bits, that of input 2 j + 1 in its high
    scale_OG    bf16  [O, I / 32]   never negative
    zero_OG     bf16  [O, I / 32]

The reference, `int4_linear`, widens the weight block by block. The fast twin, `PackedInt4`, is PyTorch's
`_weight_int4pack_mm_for_cpu`, which reads the levels as they are and sums in fp32 in the order of the inputs, so that a
row has the same bits in a batch of any size. It takes and gives bf16; with fp32 around it, this layer alone is in bf16,
which is an error forty times below that of the levels. For few rows it is the fastest product there is; for a prompt it
is two to three times slower than bf16 weights, because it computes with fp32 instructions.

Shapes: T tokens, I inputs, O outputs, G = I / 32 groups, J = I / 2 bytes of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lianlu.kernels.linear import HAS_ONEDNN, linear

GROUP = 32
LEVELS = 15
MIDDLE = 8
BLOCK_WEIGHTS = 1 << 20
TILE_OUTPUTS = 16


def quantise_groups(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight_OJ, scale_OG and zero_OG as the module says; I is a multiple of 32.

    The error is half a scale, and a 256th of the largest value of the group where bf16 does not hold its limits.
    """
    grouped_OGg = weight_OI.detach().float().reshape(len(weight_OI), -1, GROUP)
    low_OG, high_OG = grouped_OGg.aminmax(dim=-1)
    scale_OG = ((high_OG - low_OG) / LEVELS).bfloat16()
    zero_OG = (low_OG + MIDDLE * scale_OG.float()).bfloat16()
    divisor_OG = torch.where(scale_OG > 0, scale_OG, torch.ones_like(scale_OG)).float()
    levels_OGg = (grouped_OGg - zero_OG.float()[..., None]).div_(divisor_OG[..., None]).add_(MIDDLE).round_()
    levels_OI = levels_OGg.clamp_(0, LEVELS).to(torch.uint8).flatten(1)
    packed_OJ: Tensor = levels_OI[:, ::2] | levels_OI[:, 1::2] << 4
    return packed_OJ, scale_OG, zero_OG


def levels(weight_OJ: Tensor) -> Tensor:
    """levels_OI, 0 to 15, as uint8."""
    return torch.stack((weight_OJ & 15, weight_OJ >> 4), dim=-1).flatten(1)


def dequantise_groups(weight_OJ: Tensor, scale_OG: Tensor, zero_OG: Tensor) -> Tensor:
    """The fp32 weights that levels, scales and zeros stand for."""
    centred_OGg = levels(weight_OJ).float().sub_(MIDDLE).view(*scale_OG.shape, GROUP)
    return centred_OGg.mul_(scale_OG.float()[..., None]).add_(zero_OG.float()[..., None]).flatten(1)


def int4_linear(x_TI: Tensor, weight_OJ: Tensor, scale_OG: Tensor, zero_OG: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x @ dequantised.T + bias` in the dtype of `x`; differentiable in `x` and `bias`, the weight is fixed."""
    rows = max(1, BLOCK_WEIGHTS // (2 * weight_OJ.shape[1]))
    blocks = zip(*(torch.split(part, rows) for part in (weight_OJ, scale_OG, zero_OG)), strict=True)
    parts = [linear(x_TI, dequantise_groups(*block).to(x_TI.dtype)) for block in blocks]
    y_TO = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return y_TO if bias_O is None else y_TO + bias_O


class PackedInt4:
    """The fast twin: an int4 weight in the tile order of PyTorch's kernel, for products without gradients."""

    def __init__(self, weight_OJ: Tensor, scale_OG: Tensor, zero_OG: Tensor) -> None:
        self.shape = (len(weight_OJ), 2 * weight_OJ.shape[1])
        self._tiles = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels(weight_OJ).int(), 1)
        self._scale_zero_GO2 = torch.stack((scale_OG.t(), zero_OG.t()), dim=-1).contiguous()

    def linear(self, x_TI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """`x @ dequantised.T + bias` with bf16 inputs and results, in the dtype of `x`."""
        if not len(x_TI):
            return x_TI.new_empty(0, self.shape[0])
        half_TI = x_TI.bfloat16().contiguous()
        y_TO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(half_TI, self._tiles, GROUP, self._scale_zero_GO2)
        return y_TO.to(x_TI.dtype) if bias_O is None else y_TO.to(x_TI.dtype) + bias_O


def can_pack_int4(weight_OJ: Tensor) -> bool:
    """Whether this machine has the fast twin for a weight of this shape and device."""
    vectors = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return HAS_ONEDNN and vectors and weight_OJ.is_cpu and len(weight_OJ) % TILE_OUTPUTS == 0
