"""Causal attention over packed sequences of unequal length: what training and scoring hand to the model.

Sequences lie one behind the other on the token axis without padding; a token sees itself and the earlier tokens of its
own sequence. The reference is a loop over sequences of PyTorch's scaled dot-product attention, which has a flash kernel
with backward on CPU and GPU; in bfloat16 on a CPU `blocked_attention` is faster. Queries of one KV head share its keys by a
stride of zero, nothing is repeated in memory.

Shapes: T tokens, H query heads, G key-value heads, Q = H / G queries per KV head, K head_dim, S tokens of one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from lianlu.kernels.blocked_attention import blocked_attention

Boundaries = Sequence[int] | Tensor

# up to this length the CPU's flash kernel in fp32 is as fast as products in bfloat16, and more exact
WIDENED_TOKENS = 96
# and for each shape of a product in bfloat16 oneDNN makes machine code and keeps it: sequences are padded to a multiple
LENGTH_MULTIPLE = 64


class Attend(Protocol):
    """What a model is handed for attention: `(layer, q_THK, k_TGK, v_TGK) -> o_THK`; q and k are already rotated."""

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor: ...


def as_boundaries(boundaries: Boundaries) -> list[int]:
    """Cumulative lengths `[0, n_0, n_0 + n_1, ...]` as integers."""
    values = boundaries.tolist() if isinstance(boundaries, Tensor) else list(boundaries)
    return [int(value) for value in values]


def packed_positions(boundaries: Boundaries, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """positions_T (from 0 in every segment) and lengths_T (of the segment each token belongs to), int64."""
    spans = [end - start for start, end in pairwise(as_boundaries(boundaries))]
    positions_T = torch.cat([torch.arange(span) for span in spans]) if spans else torch.empty(0, dtype=torch.int64)
    lengths_T = torch.repeat_interleave(torch.tensor(spans, dtype=torch.int64), torch.tensor(spans, dtype=torch.int64))
    return positions_T.to(device), lengths_T.to(device)


def varlen_attention(q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, boundaries: Boundaries) -> Tensor:
    """o_THK of attention that is causal inside each segment `boundaries[i]:boundaries[i + 1]`; differentiable.

    `boundaries` starts with 0, ends with T and never falls; empty segments are allowed.
    """
    ends = as_boundaries(boundaries)
    spans = [end - start for start, end in pairwise(ends) if end > start]
    if len(spans) <= 1:
        return _causal(q_THK, k_TGK, v_TGK)
    parts = zip(*(torch.split(x, spans) for x in (q_THK, k_TGK, v_TGK)), strict=True)
    return torch.cat([_causal(q_SHK, k_SGK, v_SGK) for q_SHK, k_SGK, v_SGK in parts])


def _causal(q_SHK: Tensor, k_SGK: Tensor, v_SGK: Tensor) -> Tensor:
    """Causal attention of one sequence: each KV head is a batch entry, its queries are the heads."""
    if v_SGK.is_cpu and v_SGK.dtype == torch.bfloat16:
        # norms of heads hand out fp32, which attention rounds as values are
        return _causal_bfloat16_cpu(q_SHK.to(v_SGK.dtype), k_SGK.to(v_SGK.dtype), v_SGK)
    return _flash(q_SHK, k_SGK, v_SGK)


def _causal_bfloat16_cpu(q_SHK: Tensor, k_SGK: Tensor, v_SGK: Tensor) -> Tensor:
    num_tokens = len(q_SHK)
    if num_tokens <= WIDENED_TOKENS:
        with torch.autocast("cpu", enabled=False):
            return _flash(q_SHK.float(), k_SGK.float(), v_SGK.float()).to(q_SHK.dtype)
    if rest := -num_tokens % LENGTH_MULTIPLE:
        # nobody sees the padding, which comes last
        q_SHK, k_SGK, v_SGK = (pad(x, (0, 0, 0, 0, 0, rest)) for x in (q_SHK, k_SGK, v_SGK))
    q_SGQK = q_SHK.view(len(q_SHK), k_SGK.shape[1], -1, q_SHK.shape[-1])
    o_GQSK = blocked_attention(q_SGQK.permute(1, 2, 0, 3), k_SGK.transpose(0, 1), v_SGK.transpose(0, 1))
    return o_GQSK.permute(2, 0, 1, 3).reshape(q_SHK.shape)[:num_tokens]


def _flash(q_SHK: Tensor, k_SGK: Tensor, v_SGK: Tensor) -> Tensor:
    num_tokens, num_heads, head_dim = q_SHK.shape
    shape = (num_tokens, k_SGK.shape[1], num_heads // k_SGK.shape[1], head_dim)
    q_GQSK = q_SHK.view(shape).permute(1, 2, 0, 3)
    k_GQSK = k_SGK[:, :, None].expand(shape).permute(1, 2, 0, 3)
    v_GQSK = v_SGK[:, :, None].expand(shape).permute(1, 2, 0, 3)
    o_GQSK = scaled_dot_product_attention(q_GQSK, k_GQSK, v_GQSK, is_causal=True)
    return o_GQSK.permute(2, 0, 1, 3).reshape(q_SHK.shape)


class PackedCausal:
    """The attention of training and scoring: packed sequences between `cu_seqlens`, no cache."""

    def __init__(self, cu_seqlens: Boundaries) -> None:
        self.boundaries = as_boundaries(cu_seqlens)

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
        return varlen_attention(q_THK, k_TGK, v_TGK, self.boundaries)
