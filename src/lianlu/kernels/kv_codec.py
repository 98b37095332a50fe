"""How the keys and values of a token are written down in the cache: as they are, as bfloat16, or in 8 or 4 bits.

A record holds what one head keeps of one token, a key or a value. Quantisation is asymmetric with a scale and a zero for
each record, which lie behind its numbers in the same record (the scheme of LMDeploy's KV quantisation): the smallest
element becomes 0, the largest `levels`. Two 4-bit numbers share a byte, the first half of the head in the low bits.

Scale and zero are bfloat16, rounded outwards, so that they always span the record and cannot overflow; an element comes
back within half a scale, and a scale is at most `(range + |smallest| / 128) / levels` and a hundredth of that. What is no
number stays none, and a record of zero bytes is zero. All steps are exact or rounded once for each element by itself, so
that a token's record does not depend on what is written with it.

Shapes: leading axes are free (tokens, blocks, heads); K head_dim, R elements of a record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lianlu.core.errors import ConfigError

CodecName = Literal["auto", "bfloat16", "int8", "int4"]
BITS = {"int8": 8, "int4": 4}
OUTWARDS = 2.0**-8
"""More than the rounding error of bfloat16, half of a unit in its last place of 8 bits."""
SMALLEST_SCALE = 2.0**-100
PARAMETER_BYTES = 4


@dataclass(frozen=True)
class Codec:
    """What a head's key or value looks like in the cache; `bits` is 0 where elements are kept as numbers of `stored`."""

    name: CodecName
    head_dim: int
    compute: torch.dtype
    stored: torch.dtype
    bits: int = 0

    @property
    def record_size(self) -> int:
        """R: elements of `stored` in a record."""
        return self.head_dim * self.bits // 8 + PARAMETER_BYTES if self.bits else self.head_dim

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return self.record_size * self.stored.itemsize

    def encode(self, x_K: Tensor) -> Tensor:
        """r_R in `stored` for elements in any floating dtype (last axis)."""
        return quantise(x_K, self.bits) if self.bits else x_K.to(self.stored)

    def decode(self, r_R: Tensor) -> Tensor:
        """x_K in `compute` for records (last axis)."""
        return dequantise(r_R, self.bits).to(self.compute) if self.bits else r_R.to(self.compute)


def codec_for(name: CodecName, head_dim: int, compute: torch.dtype) -> Codec:
    """The codec of that name for a model that computes in `compute`. Raises: ConfigError if the head is too odd for it."""
    bits = BITS.get(name, 0)
    if not bits:
        return Codec(name, head_dim, compute, torch.bfloat16 if name == "bfloat16" else compute)
    if head_dim * bits % 16:
        what = f"kv = {name!r} needs heads whose size is a multiple of {16 // bits}, this model's have {head_dim}"
        raise ConfigError(what, hint="use kv = 'bfloat16', or 'int8' with heads of even size")
    return Codec(name, head_dim, compute, torch.uint8, bits)


def quantise(x_K: Tensor, bits: int) -> Tensor:
    """Records r_R (bytes) of elements x_K: numbers of `bits` bits, then scale and zero."""
    wide_K = x_K.float()
    low_1, high_1 = torch.aminmax(wide_K, dim=-1, keepdim=True)
    levels = (1 << bits) - 1
    zero_1 = (low_1 - low_1.abs() * OUTWARDS).bfloat16()
    scale_1 = ((high_1 - zero_1.float()) * ((1 + OUTWARDS) / levels)).clamp_min(SMALLEST_SCALE).bfloat16()
    level_K = ((wide_K - zero_1.float()) / scale_1.float()).round_().nan_to_num_(0).clamp_(0, levels).to(torch.uint8)
    parameters_R = torch.cat((scale_1, zero_1), -1).view(torch.uint8)
    return torch.cat((level_K if bits == 8 else _pack(level_K), parameters_R), -1)


def dequantise(r_R: Tensor, bits: int) -> Tensor:
    """The fp32 elements x_K that records stand for: `level * scale + zero`."""
    level_K, parameters_R = r_R[..., :-PARAMETER_BYTES], r_R[..., -PARAMETER_BYTES:]
    parameters_2 = parameters_R.view(torch.bfloat16).float()
    wide_K = (level_K if bits == 8 else _unpack(level_K)).float()
    return wide_K.mul_(parameters_2[..., :1]).add_(parameters_2[..., 1:])


def _pack(level_K: Tensor) -> Tensor:
    half = level_K.shape[-1] // 2
    return level_K[..., :half] | (level_K[..., half:] << 4)


def _unpack(packed: Tensor) -> Tensor:
    return torch.cat((packed & 15, packed >> 4), -1)
