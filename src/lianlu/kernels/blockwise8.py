"""Numbers in a byte and a scale for each block of 256: states of an 8-bit optimiser (Dettmers et al. 2022, arXiv 2110.02861).

A code stands for one of 256 values in [-1, 1] or [0, 1], the dynamic tree of Dettmers 2016 (arXiv 1511.04561): seven decades,
each with twice as many evenly spaced values as the one below it. The values are those of bitsandbytes, and a code is that of
the nearest value, with two differences. The scale of a block is its element of the largest magnitude with its sign, so that this
element is always code 1.0: bitsandbytes takes the magnitude, has no code for -1, and loses 0.7 % of it at each turn. And
in the unsigned grid nothing above zero becomes zero, because an Adam step divides by the root of it.

Blocks lie along the last axis and begin anew in each row, so that rows can be divided between processes and a row keeps its
bytes. A piece of a row is encoded as it would be in the whole: `lead` is the number of elements of its first block before it.

The nearest value is found without a search: the upper 16 bits of a float narrow it down to two neighbours, and one comparison
decides. On a 2-core EPYC that is 20 times as fast as `torch.bucketize`.

Shapes: R rows, I elements of a row, B blocks of a row, C = 256 codes, K = 65536 patterns of 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256
DECADES = 7
NUM_PATTERNS = 1 << 16


@dataclass(frozen=True)
class Grid:
    """256 ascending values, and tables to find the nearest by: the lowest candidate of a pattern, and where its next begins."""

    values_C: Tensor
    lowest_K: Tensor
    next_C: Tensor


@cache
def dynamic_grid(signed: bool, device: torch.device) -> Grid:
    """The grid of the mean (signed) or of the square (unsigned) of gradients."""
    values_C = dynamic_values(signed)
    middle = (values_C[:-1] + values_C[1:]) / 2
    if not signed:
        middle[0] = 0.0
    # of all floats that share the upper 16 bits, those with the smallest and the largest magnitude
    patterns_K = torch.arange(NUM_PATTERNS, dtype=torch.int32) << 16
    ends_2K = torch.stack([patterns_K, patterns_K | 0xFFFF]).view(torch.float32).nan_to_num(0.0)
    # a code's values are those above the middle below it, up to and with the middle above it
    lowest_K, highest_K = torch.bucketize(ends_2K, middle, out_int32=True).sort(dim=0).values
    within_K = ends_2K.abs().amax(dim=0) <= 1
    assert int((highest_K - lowest_K)[within_K].max()) <= 1
    next_C = torch.cat([middle, middle.new_tensor([torch.inf])])
    return Grid(values_C.to(device), lowest_K.to(device), next_C.to(device))


def dynamic_values(signed: bool) -> Tensor:
    """The 256 values of the dynamic tree, ascending: in decade i, 2^i (signed) or 2^(i+1) middles of even parts of [0.1, 1]."""
    decades = []
    for decade in range(DECADES):
        ends = torch.linspace(0.1, 1, 2 ** (decade + (0 if signed else 1)) + 1)
        decades.append(10.0 ** (decade + 1 - DECADES) * ((ends[:-1] + ends[1:]) / 2))
    positive = torch.cat(decades)
    negative = -positive if signed else positive[:0]
    return torch.cat([negative, positive, torch.tensor([0.0, 1.0])]).sort().values


def quantise(x_RI: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """codes_RI (uint8) and scales_RB (fp32) of rows of fp32."""
    scales_RB = scales_of(extremes(x_RI))
    return encode(x_RI, scales_RB, signed), scales_RB


def dequantise(codes_RI: Tensor, scales_RB: Tensor, signed: bool, lead: int = 0) -> Tensor:
    """The fp32 values that codes and scales stand for."""
    grid = dynamic_grid(signed, codes_RI.device)
    values_RI = grid.values_C.index_select(0, codes_RI.flatten().int()).view(codes_RI.shape)
    return values_RI.mul_(_spread(scales_RB, codes_RI.shape[1], lead))


def num_blocks(length: int, lead: int = 0) -> int:
    """Blocks that a row (or a piece of one) touches."""
    return -(-(lead + length) // BLOCK)


def extremes(x_RI: Tensor, lead: int = 0) -> Tensor:
    """extremes_2RB: the largest value of each block and the largest negated one, neither below 0.

    Those of the pieces of a block, joined by the maximum, are those of the block.
    """
    length = x_RI.shape[1]
    blocks = num_blocks(length, lead)
    padded_RI = F.pad(x_RI, (lead, blocks * BLOCK - lead - length)) if lead or length % BLOCK else x_RI
    blocks_RBC = padded_RI.view(len(x_RI), blocks, BLOCK)
    # two reductions: `aminmax` is not vectorised along an axis
    return torch.stack([blocks_RBC.amax(dim=2), blocks_RBC.amin(dim=2).neg_()]).clamp_(min=0)


def scales_of(extremes_2RB: Tensor) -> Tensor:
    """scales_RB: the element of the largest magnitude with its sign; of equals the positive one."""
    high_RB, low_RB = extremes_2RB.unbind()
    return torch.where(high_RB >= low_RB, high_RB, -low_RB)


def encode(x_RI: Tensor, scales_RB: Tensor, signed: bool, lead: int = 0) -> Tensor:
    """codes_RI of the values nearest to `x / scale`; a block of scale 0 has the code of 0."""
    grid = dynamic_grid(signed, x_RI.device)
    safe_RB = torch.where(scales_RB == 0, torch.ones_like(scales_RB), scales_RB)
    relative_N = (x_RI / _spread(safe_RB, x_RI.shape[1], lead)).flatten()
    pattern_N = (relative_N.view(torch.int32) >> 16).bitwise_and_(NUM_PATTERNS - 1)
    code_N = grid.lowest_K.index_select(0, pattern_N)
    code_N += relative_N > grid.next_C.index_select(0, code_N)
    return code_N.to(torch.uint8).view(x_RI.shape)


def _spread(scales_RB: Tensor, length: int, lead: int) -> Tensor:
    """Each block's scale at each of its elements."""
    wide_RI = scales_RB.unsqueeze(2).expand(-1, -1, BLOCK).reshape(len(scales_RB), scales_RB.shape[1] * BLOCK)
    return wide_RI[:, lead : lead + length]
