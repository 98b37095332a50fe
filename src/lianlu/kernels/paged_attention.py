"""Attention over keys and values that lie in blocks: chunks of prompts and decoding rows, the same numbers for both.

A row's result depends on its own query and keys alone, to the bit: not on what else is computed in the call, on where a
chunk of the prompt begins, or on whether the token is decoded or computed again later. To that end the keys of a sequence
are cut into splits of `SPLIT` positions counted from its beginning; every split is attended to by itself, and the parts
are added in order with weights from their log-sum-exp (flash-decoding: Dao et al. 2023). Within a split the order of
summation does not depend on the number of rows as long as there are `ROWS` or more and keys come in multiples of `KEYS`
(measured: fp32 and bf16, torch 2.13 on x86; a split of 256 already breaks it), so rows and keys are padded to that.

`partial` is the reference for one split in plain torch; on the CPU PyTorch's flash kernel takes its place.

Shapes: T tokens of one chunk, L keys of one sequence, B decoding rows, N splits of all rows, S keys of a split,
M most splits of a row,
H query heads, G key-value heads, Q = H / G queries per KV head, K head_dim, P blocks of keys and values, U tokens per block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SPLIT = 128
ROWS = 4
KEYS = 32


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple


def partial_reference(q_TK: Tensor, k_SK: Tensor, v_SK: Tensor, mask_TS: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention to one split (last two axes; the leading ones are batch) and the log-sum-exp of its scores (fp32)."""
    scores_TS = (q_TK.float() @ k_SK.float().transpose(-1, -2)) / math.sqrt(q_TK.shape[-1])
    if mask_TS is not None:
        scores_TS = scores_TS + mask_TS
    lse_T = scores_TS.logsumexp(-1)
    return ((scores_TS - lse_T[..., None]).exp() @ v_SK.float()).to(q_TK.dtype), lse_T


def partial_flash(q_TK: Tensor, k_SK: Tensor, v_SK: Tensor, mask_TS: Tensor | None) -> tuple[Tensor, Tensor]:
    """`partial_reference` by PyTorch's flash kernel for CPUs; two batch axes."""
    o_TK, lse_T = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q_TK, k_SK, v_SK, 0.0, False, attn_mask=mask_TS)
    return o_TK, lse_T


def partial(q_TK: Tensor, k_SK: Tensor, v_SK: Tensor, mask_TS: Tensor | None) -> tuple[Tensor, Tensor]:
    """The fastest of the two that there is for the device."""
    return (partial_flash if q_TK.device.type == "cpu" else partial_reference)(q_TK, k_SK, v_SK, mask_TS)


def chunk_attention(q_THK: Tensor, k_LGK: Tensor, v_LGK: Tensor, num_keys: int) -> Tensor:
    """o_THK of queries at the last T of `num_keys` positions, each of which sees itself and what lies before it.

    `k_LGK` and `v_LGK` may be longer than `num_keys`: what lies behind is finite and not looked at. For results that do
    not depend on the chunk, L is `num_keys` rounded up to a multiple of `KEYS`.
    """
    num_rows, num_heads, head_dim = q_THK.shape
    num_groups = k_LGK.shape[1]
    rows = round_up(num_rows, ROWS)
    first = num_keys - num_rows
    shape = (num_groups, num_heads // num_groups)
    q_GQTK = F.pad(q_THK, (0, 0, 0, 0, 0, rows - num_rows)).view(rows, *shape, head_dim).permute(1, 2, 0, 3)
    k_GQLK, v_GQLK = (x[:, :, None].expand(-1, -1, shape[1], -1).permute(1, 2, 0, 3) for x in (k_LGK, v_LGK))
    parts = []
    for begin in range(0, num_keys, SPLIT):
        end = min(begin + SPLIT, k_LGK.shape[0])
        skip = max(0, begin - first) // ROWS * ROWS
        mask_TS = _causal_mask(first + skip, rows - skip, begin, end, q_THK)
        parts.append((skip, *partial(q_GQTK[:, :, skip:], k_GQLK[:, :, begin:end], v_GQLK[:, :, begin:end], mask_TS)))
    o_GQTK = parts[0][1] if len(parts) == 1 else _merge_rows(parts, first)
    return o_GQTK.permute(2, 0, 1, 3)[:num_rows].reshape(q_THK.shape)


def _causal_mask(first: int, num_rows: int, begin: int, end: int, like: Tensor) -> Tensor | None:
    """Mask for queries at `first...` and keys `begin:end`: 0 or -inf; None if every query sees every key."""
    if first >= end - 1:
        return None
    positions_T1 = torch.arange(first, first + num_rows, device=like.device)[:, None]
    mask_TS = torch.zeros(num_rows, end - begin, dtype=like.dtype, device=like.device)
    return mask_TS.masked_fill_(torch.arange(begin, end, device=like.device) > positions_T1, -math.inf)


def _merge_rows(parts: list[tuple[int, Tensor, Tensor]], first: int) -> Tensor:
    """Add the splits of one chunk; split j holds its rows from `skip` on, those before see none of its keys."""
    _, o_GQTK, lse_GQT = parts[0]
    lse_NGQT = lse_GQT.new_full((len(parts), *lse_GQT.shape), -math.inf)
    for index, (_, _, lse_GQR) in enumerate(parts):
        seen = max(0, index * SPLIT - first)
        lse_NGQT[index, :, :, seen:] = lse_GQR[:, :, seen - parts[index][0] :]
    weight_NGQT1 = _weights(lse_NGQT)[..., None]
    total_GQTK = o_GQTK.float() * weight_NGQT1[0]
    for index in range(1, len(parts)):
        skip, o_GQRK, _ = parts[index]
        seen = max(0, index * SPLIT - first)
        total_GQTK[:, :, seen:].addcmul_(o_GQRK[:, :, seen - skip :].float(), weight_NGQT1[index, :, :, seen:])
    return total_GQTK.to(o_GQTK.dtype)


def _weights(lse_N: Tensor) -> Tensor:
    """Share of every split (first axis) in the whole; in fp64, so that rounding does not depend on the place in the tensor."""
    return lse_N.double().softmax(0).float()


@dataclass(frozen=True)
class DecodePlan:
    """Where the keys of the decoding rows of one step lie; the same for all layers."""

    blocks: Tensor
    """Rows of the cache seen as [2 P, U G K]: all blocks of keys, split by split, then those of values."""
    row_of_split: Tensor
    """[N]: the row that each split belongs to."""
    mask: Tensor
    """[N, 1, 1, S]: 0 for a key, -inf for what lies behind the last one."""
    split_of_row: Tensor | None
    """[M, B]: the j-th split of row b (its last where it has no j-th); None if each row has one split."""
    absent: Tensor | None
    """[M, B, 1, 1]: 0, or -inf where a row has no j-th split."""


def plan_decode(
    tables: Sequence[Sequence[int]], lengths: Sequence[int], num_blocks: int, block_size: int, like: Tensor
) -> DecodePlan:
    """Plan for rows whose sequence has `lengths[b]` keys in the blocks `tables[b]`.

    The cache has `num_blocks` blocks, the last of which is never written and fills up the tables; `block_size` divides `SPLIT`.
    """
    per_split, device = SPLIT // block_size, like.device
    counts = [-(-length // SPLIT) for length in lengths]
    flat: list[int] = []
    for table, count in zip(tables, counts, strict=True):
        flat += table
        flat += [num_blocks - 1] * (count * per_split - len(table))
    counts_B = torch.tensor(counts)
    lengths_B = torch.tensor(lengths)
    rows_N = torch.repeat_interleave(torch.arange(len(counts)), counts_B)
    begin_B = counts_B.cumsum(0) - counts_B
    left_N = lengths_B[rows_N] - (torch.arange(len(rows_N)) - begin_B[rows_N]) * SPLIT
    mask_NS = torch.zeros(len(rows_N), SPLIT, dtype=like.dtype).masked_fill_(torch.arange(SPLIT) >= left_N[:, None], -math.inf)
    blocks = torch.tensor(flat)
    split_MB = absent_MB11 = None
    if max(counts) > 1:
        order_M1 = torch.arange(max(counts))[:, None]
        absent_MB11 = (
            torch.zeros(max(counts), len(counts)).masked_fill_(order_M1 >= counts_B, -math.inf)[..., None, None].to(device)
        )
        split_MB = (begin_B + torch.minimum(order_M1, counts_B - 1)).to(device)
    both = torch.cat((blocks, blocks + num_blocks)).to(device)
    return DecodePlan(both, rows_N.to(device), mask_NS[:, None, None].to(device), split_MB, absent_MB11)


def paged_decode(q_BHK: Tensor, cache_2PUGK: Tensor, plan: DecodePlan) -> Tensor:
    """o_BHK of one query per row over the blocks of its sequence."""
    num_rows, num_heads, head_dim = q_BHK.shape
    num_groups = cache_2PUGK.shape[3]
    num_splits = plan.row_of_split.shape[0]
    per_group = num_heads // num_groups
    kv_2NSGK = cache_2PUGK.flatten(0, 1).flatten(1).index_select(0, plan.blocks).view(2, num_splits, SPLIT, num_groups, head_dim)
    k_NGSK, v_NGSK = kv_2NSGK.transpose(2, 3)
    q_BGQK = F.pad(q_BHK.view(num_rows, num_groups, per_group, head_dim), (0, 0, 0, max(0, ROWS - per_group)))
    q_NGQK = q_BGQK if plan.split_of_row is None else q_BGQK.index_select(0, plan.row_of_split)
    o_NGQK, lse_NGQ = partial(q_NGQK, k_NGSK, v_NGSK, plan.mask.expand(-1, -1, q_NGQK.shape[2], -1))
    return _merge_splits(o_NGQK, lse_NGQ, plan)[:, :, :per_group].reshape(q_BHK.shape)


def _merge_splits(o_NGQK: Tensor, lse_NGQ: Tensor, plan: DecodePlan) -> Tensor:
    """Add the splits of each row, in order."""
    if plan.split_of_row is None or plan.absent is None:
        return o_NGQK
    order_N, (most, num_rows) = plan.split_of_row.flatten(), plan.split_of_row.shape
    lse_MBGQ = lse_NGQ.index_select(0, order_N).view(most, num_rows, *lse_NGQ.shape[1:]) + plan.absent
    weight_MBGQ1 = _weights(lse_MBGQ)[..., None]
    o_MBGQK = o_NGQK.float().index_select(0, order_N).view(most, num_rows, *o_NGQK.shape[1:])
    total_BGQK = o_MBGQK[0] * weight_MBGQ1[0]
    for index in range(1, most):
        total_BGQK.addcmul_(o_MBGQK[index], weight_MBGQ1[index])
    return total_BGQK.to(o_NGQK.dtype)
