"""Rotary position embedding (Su et al. 2021): frequencies of each scaling kind, and the rotation of queries and keys.

Half-split form (the first half of a head rotates with the second), as Hugging Face checkpoints have it. Kinds:
`linear` (positions divided by a factor), `dynamic` (NTK: the base grows with the length of the sequence beyond the
trained length), `yarn` (Peng et al. 2023), `llama3` (Meta's wavelength bands).

Frequencies are fp32, as checkpoints were trained with them. So are angles up to position `NEAR`, to the bit as other
implementations have them. Beyond, where that product is off by up to a hundredth of a radian at position 200,000, by
another amount for every token, they are formed in fp64 and brought into one turn before they are rounded.

Shapes: T tokens, U different lengths, H heads, K head_dim, J = K / 2 frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

NEAR = 4096


def frequencies(base: float, head_dim: int) -> Tensor:
    """Plain inverse frequencies f_J: `base ** (-2j / head_dim)`, fp32."""
    exponent_J = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return 1.0 / (base**exponent_J)


def dynamic_frequencies(base: float, head_dim: int, factor: float, max_length: int, lengths_T: Tensor) -> Tensor:
    """Frequencies f_TJ of dynamic NTK for tokens in sequences of `lengths_T`; plain ones up to `max_length`.

    Computed for each length by itself, so that a token's do not depend on the lengths beside it, not in the last bit.
    """
    lengths_U, place_T = torch.unique(lengths_T.cpu(), return_inverse=True)
    rows = [_dynamic_row(base, head_dim, factor, max_length, length) for length in lengths_U.tolist()]
    return torch.stack(rows)[place_T].to(lengths_T.device)


@lru_cache(maxsize=1024)
def _dynamic_row(base: float, head_dim: int, factor: float, max_length: int, length: int) -> Tensor:
    """f_J for one length."""
    over = max(1.0, factor * length / max_length - (factor - 1))
    return frequencies(base * over ** (head_dim / (head_dim - 2)), head_dim)


def yarn_frequencies(base: float, head_dim: int, factor: float, length: int, betas: tuple[float, float]) -> Tensor:
    """Frequencies f_J of YaRN: fast ones kept, slow ones divided by `factor`, a ramp between.

    `length` is the trained length; `betas` are the rotations (fast, slow) between which the ramp lies.
    """
    plain_J = frequencies(base, head_dim)
    low, high = (head_dim * math.log(length / (beta * 2 * math.pi)) / (2 * math.log(base)) for beta in betas)
    low, high = max(math.floor(low), 0), min(math.ceil(high), head_dim - 1)
    span = high - low if high != low else 0.001
    ramp_J = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
    return plain_J / factor * ramp_J + plain_J * (1 - ramp_J)


def yarn_magnitude(factor: float) -> float:
    """What YaRN multiplies cos and sin by."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def llama3_frequencies(base: float, head_dim: int, factor: float, length: int, bands: tuple[float, float]) -> Tensor:
    """Frequencies f_J of Llama 3.1: waves longer than `length / low` divided by `factor`, shorter than `length / high` kept."""
    plain_J = frequencies(base, head_dim)
    low, high = bands
    wavelength_J = 2 * math.pi / plain_J
    smooth_J = ((length / wavelength_J - low) / (high - low)).clamp(0, 1)
    return (1 - smooth_J) * plain_J / factor + smooth_J * plain_J


def cos_sin(positions_T: Tensor, frequencies_J: Tensor, magnitude: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos_TK and sin_TK in fp32, as `rotate` wants them: for both halves of a head, sin negated for the first.

    `frequencies_J` may also be one row for each token (f_TJ).
    """
    near_TJ = positions_T[:, None].float() * frequencies_J
    turns_TJ = positions_T[:, None].double() * (frequencies_J.double() / math.tau)
    far_TJ = turns_TJ.sub_(turns_TJ.round()).mul_(math.tau).to(near_TJ.dtype)
    angle_TJ = torch.where(positions_T[:, None] < NEAR, near_TJ, far_TJ)
    cos_TJ, sin_TJ = angle_TJ.cos() * magnitude, angle_TJ.sin() * magnitude
    return torch.cat((cos_TJ, cos_TJ), dim=-1), torch.cat((-sin_TJ, sin_TJ), dim=-1)


def rotate(x: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate every head of `x` (T, any axes of heads, K) by the angle of its token; cos and sin as `cos_sin` gives them."""
    return _rotate(x, cos_TK, sin_TK) if torch.is_grad_enabled() else _turned(x, cos_TK, sin_TK, 1)


class _Rotation(torch.autograd.Function):
    """`x * cos + swapped x * sin`; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TK, sin_TK)
        return _turned(x, cos_TK, sin_TK, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos_TK, sin_TK = ctx.saved_tensors
        return _turned(grads[0], cos_TK, sin_TK, -1), None, None


def _turned(x: Tensor, cos_TK: Tensor, sin_TK: Tensor, sign: int) -> Tensor:
    shape = (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1])
    cos, sin = cos_TK.to(x.dtype).view(shape), sin_TK.to(x.dtype).view(shape)
    # two roundings, as in every implementation the checkpoints were trained with; a fused one would differ in the last bit
    return torch.mul(x, cos).add_(x.roll(x.shape[-1] // 2, dims=-1).mul_(sin), alpha=sign)


_rotate: Callable[..., Tensor] = _Rotation.apply
