"""Dequantisation of GGUF tensors in numpy: one function for each block type of ggml.

A quantised tensor is a run of blocks of equal size; each holds 32 or 256 weights and their scales. Block layouts are those
of ggml's `ggml-common.h`; the order of multiplications is ggml's, so results are equal to its reference to the bit.

Every function takes raw blocks, uint8 of shape (blocks, bytes), and returns float32 of shape (blocks, weights).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CHUNK_BLOCKS = 1 << 14
NIBBLES = np.array([0, 4], dtype=np.uint8)


@dataclass(frozen=True)
class BlockType:
    """How many weights and bytes a block has, and how it is decoded."""

    name: str
    num_weights: int
    num_bytes: int
    decode: Callable[[Bytes], Floats]


def dequantise(raw: Bytes, kind: BlockType) -> Floats:
    """The weights in `raw` (a whole number of blocks) as one flat float32 array."""
    blocks = raw.reshape(-1, kind.num_bytes)
    weights = np.empty((len(blocks), kind.num_weights), dtype=np.float32)
    for start in range(0, len(blocks), CHUNK_BLOCKS):
        weights[start : start + CHUNK_BLOCKS] = kind.decode(blocks[start : start + CHUNK_BLOCKS])
    return weights.reshape(-1)


def _half(blocks: Bytes) -> Floats:
    """A little-endian fp16 in two byte columns, one for each block."""
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def _f32(blocks: Bytes) -> Floats:
    return np.ascontiguousarray(blocks).view("<f4")


def _bf16(blocks: Bytes) -> Floats:
    return (np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _nibbles(packed: Bytes, span: int) -> Bytes:
    """Low halves of each run of `span` bytes, then their high halves."""
    runs = packed.reshape(len(packed), -1, 1, span) >> NIBBLES[:, None]
    return (runs & np.uint8(15)).reshape(len(packed), -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """The 32 bits of each block as 0 or 16."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Floats:
    quants = _nibbles(blocks[:, 2:], 16).astype(np.int8) - np.int8(8)
    return _half(blocks[:, :2]) * quants.astype(np.float32)


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks[:, :2]) * _nibbles(blocks[:, 4:], 16).astype(np.float32) + _half(blocks[:, 2:4])


def _q5_0(blocks: Bytes) -> Floats:
    quants = (_nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])).astype(np.int8) - np.int8(16)
    return _half(blocks[:, :2]) * quants.astype(np.float32)


def _q5_1(blocks: Bytes) -> Floats:
    quants = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks[:, :2]) * quants.astype(np.float32) + _half(blocks[:, 2:4])


def _q8_0(blocks: Bytes) -> Floats:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _half(blocks[:, :2])


def _six_bit(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Scales and minima of the eight sub-blocks of a K-quant, from their 12 bytes."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=1)
    return scales, minima


def _affine_k(blocks: Bytes, quants: Bytes) -> Floats:
    """Eight sub-blocks of 32 with a scale and a minimum each."""
    scales, minima = _six_bit(blocks[:, 4:16])
    step = (_half(blocks[:, 0:2]) * scales.astype(np.float32))[:, :, None]
    least = (_half(blocks[:, 2:4]) * minima.astype(np.float32))[:, :, None]
    return (step * quants.reshape(-1, 8, 32).astype(np.float32) - least).reshape(-1, 256)


def _q4_k(blocks: Bytes) -> Floats:
    return _affine_k(blocks, _nibbles(blocks[:, 16:], 32))


def _q5_k(blocks: Bytes) -> Floats:
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    fifth = ((blocks[:, None, 16:48] >> shifts) & np.uint8(1)) << np.uint8(4)
    return _affine_k(blocks, _nibbles(blocks[:, 48:], 32) | fifth.reshape(-1, 256))


def _q6_k(blocks: Bytes) -> Floats:
    low = _nibbles(blocks[:, :128], 64)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & np.uint8(3)
    quants = (low | (high.reshape(-1, 256) << np.uint8(4))).astype(np.int8) - np.int8(32)
    step = _half(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (step[:, :, None] * quants.reshape(-1, 16, 16).astype(np.float32)).reshape(-1, 256)


BLOCK_TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4, _f32),
    1: BlockType("F16", 1, 2, _half),
    2: BlockType("Q4_0", 32, 18, _q4_0),
    3: BlockType("Q4_1", 32, 20, _q4_1),
    6: BlockType("Q5_0", 32, 22, _q5_0),
    7: BlockType("Q5_1", 32, 24, _q5_1),
    8: BlockType("Q8_0", 32, 34, _q8_0),
    12: BlockType("Q4_K", 256, 144, _q4_k),
    13: BlockType("Q5_K", 256, 176, _q5_k),
    14: BlockType("Q6_K", 256, 210, _q6_k),
    30: BlockType("BF16", 1, 2, _bf16),
}
