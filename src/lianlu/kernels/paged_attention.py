"""Attention over keys and values that lie in blocks: chunks of prompts and decoding rows, the same numbers for both.

A row's result depends on its own query and keys alone, to the bit: not on what else is computed in the call, on where a
chunk of the prompt begins, or on whether the token is decoded or computed again later. To that end the keys of a sequence
are cut into splits of `SPLIT` positions counted from its beginning; every split is attended to by itself, and the parts
are added in order, in fp64, with weights from their log-sum-exp relative to the first split (flash-decoding: Dao et al.
2023). Within a split the order of summation does not depend on the number of rows as long as there are `ROWS` or more and
keys come in multiples of `KEYS` (measured: fp32 and bf16, torch 2.13 on x86; a split of 256 already breaks it), so rows
and keys are padded to that.

Keys and values are read in pieces of `PIECE` splits, so that a context of any length takes the same working memory.
`partial` is the reference for one split in plain torch; on the CPU PyTorch's flash kernel takes its place.

Shapes: T tokens of one chunk, L keys of one sequence or piece, B sequences, R most queries of one, N splits of all sequences,
M most splits of one, S keys of a split, H query heads, G key-value heads, Q = H / G queries per KV head, Y = R Q,
X the same padded to a multiple of `ROWS`, K head_dim, U tokens per block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SPLIT = 128
ROWS = 4
KEYS = 32
PIECE = 32
MAX_LOG_WEIGHT = 600.0
"""Splits that outweigh the first by more than e to this count as this; fp64 ends at 709."""
KeysValues = tuple[Tensor, Tensor]


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
    return prompt_attention(q_THK, [(k_LGK, v_LGK)], num_keys)


def prompt_attention(q_THK: Tensor, pieces: Iterable[KeysValues], num_keys: int) -> Tensor:
    """`chunk_attention` over keys and values that come in pieces, all but the last of a multiple of `SPLIT` positions."""
    num_rows, num_heads, head_dim = q_THK.shape
    first = num_keys - num_rows
    rows = round_up(num_rows, ROWS)
    padded_THK = F.pad(q_THK, (0, 0, 0, 0, 0, rows - num_rows))
    total: _Total | None = None
    begin = 0
    for k_LGK, v_LGK in pieces:
        num_groups = k_LGK.shape[1]
        per_group = num_heads // num_groups
        q_GQTK = padded_THK.view(rows, num_groups, per_group, head_dim).permute(1, 2, 0, 3)
        k_GQLK, v_GQLK = (x[:, :, None].expand(-1, -1, per_group, -1).permute(1, 2, 0, 3) for x in (k_LGK, v_LGK))
        for start in range(0, min(num_keys - begin, k_LGK.shape[0]), SPLIT):
            part = slice(start, start + SPLIT)
            k_GQSK, v_GQSK = k_GQLK[:, :, part], v_GQLK[:, :, part]
            seen = max(0, begin + start - first)
            skip = seen // ROWS * ROWS
            mask_TS = _causal_mask(first + skip, rows - skip, begin + start, k_GQSK.shape[2], q_THK)
            o_GQTK, lse_GQT = partial(q_GQTK[:, :, skip:], k_GQSK, v_GQSK, mask_TS)
            if total is None:
                total = _Total(o_GQTK, lse_GQT)
            else:
                total.add(o_GQTK[:, :, seen - skip :], lse_GQT[:, :, seen - skip :], seen)
        begin += k_LGK.shape[0]
    assert total is not None, "there are no keys"
    return total.mean().permute(2, 0, 1, 3)[:num_rows].reshape(q_THK.shape)


def _causal_mask(first: int, num_rows: int, begin: int, num_keys: int, like: Tensor) -> Tensor | None:
    """Mask for queries at `first...` and keys at `begin...`: 0 or -inf; None if every query sees every key."""
    if first >= begin + num_keys - 1:
        return None
    positions_T1 = torch.arange(first, first + num_rows, device=like.device)[:, None]
    mask_TS = torch.zeros(num_rows, num_keys, dtype=like.dtype, device=like.device)
    return mask_TS.masked_fill_(torch.arange(begin, begin + num_keys, device=like.device) > positions_T1, -math.inf)


class _Total:
    """The sum of the splits of one chunk so far; every row sees the first split."""

    def __init__(self, o_GQTK: Tensor, lse_GQT: Tensor) -> None:
        self._first_GQTK = o_GQTK
        self._lse_GQT = lse_GQT.double()
        self._sum_GQTX: Tensor | None = None

    def add(self, o_GQRK: Tensor, lse_GQR: Tensor, seen: int) -> None:
        """Add a split that rows from `seen` on see."""
        if self._sum_GQTX is None:
            self._sum_GQTX = _weighted(self._first_GQTK, torch.zeros_like(self._lse_GQT))
        self._sum_GQTX[:, :, seen:].add_(_weighted(o_GQRK, lse_GQR - self._lse_GQT[:, :, seen:]))

    def mean(self) -> Tensor:
        """o_GQTK."""
        return self._first_GQTK if self._sum_GQTX is None else _mean(self._sum_GQTX, self._first_GQTK.dtype)


def _weighted(o_K: Tensor, log_weight: Tensor) -> Tensor:
    """Results of a split times their weights, and the weights as one more column; fp64."""
    terms_X = o_K.new_empty(*o_K.shape[:-1], o_K.shape[-1] + 1, dtype=torch.float64)
    terms_X[..., :-1], terms_X[..., -1] = o_K, 1
    return terms_X.mul_(log_weight.clamp(max=MAX_LOG_WEIGHT).exp()[..., None])


def _mean(sum_X: Tensor, dtype: torch.dtype) -> Tensor:
    return (sum_X[..., :-1] / sum_X[..., -1:]).to(dtype)


@dataclass(frozen=True)
class Layout:
    """The cache that a plan is made for: its blocks, and Q, the queries per key-value head.

    The last of `num_blocks` is never written and fills up the tables; `block_size` divides `SPLIT`. Rows of the cache are
    all its blocks of keys, then all its blocks of values.
    """

    num_blocks: int
    block_size: int
    per_group: int

    def pieces(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """Rows of the cache for consecutive blocks, `PIECE` splits at a time."""
        return tuple(torch.cat((part, part + self.num_blocks)) for part in torch.split(blocks, PIECE * SPLIT // self.block_size))


@dataclass(frozen=True)
class DecodePlan:
    """Where the keys of sequences with a few queries each lie; the same for all layers.

    Splits lie in the order of their place in the sequence, so that the j-th ones are neighbours, and those who have a
    j-th one are the first sequences.
    """

    pieces: tuple[Tensor, ...]
    """Rows of the cache, `PIECE` splits at a time."""
    starts: tuple[int, ...]
    """The j-th splits are those from `starts[j]` to `starts[j + 1]`."""
    sequence_of_split: Tensor
    """[N]"""
    masks: tuple[Tensor | None, ...]
    """By piece, [splits, 1, 1 or X, S]: 0 for a key, -inf for one that lies behind the query; None if all see all."""
    unseen: Tensor | None
    """[N, 1, X]: whether the query sees no key of the split; None if all see some."""
    num_queries: int
    """R"""
    query: Tensor | None
    """[B R]: the row of each query, some row where a sequence has fewer; None if there is one query each."""
    place: Tensor | None
    """[T]: where the rows' results are among B R; None if there is one query each."""


def plan_decode(
    tables: Sequence[Sequence[int]], lengths: Sequence[int], counts: Sequence[int], layout: Layout, like: Tensor
) -> DecodePlan:
    """Plan for sequences with `lengths[b]` keys in the blocks `tables[b]` and queries at the last `counts[b]` of them.

    The queries are rows, sequence by sequence; sequences with more splits come first.
    """
    lengths_B, counts_B = torch.tensor(lengths), torch.tensor(counts)
    splits_B = -(-lengths_B // SPLIT)
    assert (splits_B.diff() <= 0).all(), "sequences with more splits come first"
    has_MB = torch.arange(int(splits_B[0]))[:, None] < splits_B
    order_N, sequence_N = has_MB.nonzero().unbind(1)
    position_BX = (lengths_B - counts_B)[:, None] + _query_of(counts_B, layout.per_group)
    last_NX = position_BX[sequence_N] - order_N[:, None] * SPLIT
    unseen_N1X = (last_NX < 0)[:, None].to(like.device)
    most, device = max(counts), like.device
    owns_BR = torch.arange(most) < counts_B[:, None]
    query_BR = (counts_B.cumsum(0) - counts_B)[:, None] + torch.arange(most).minimum(counts_B[:, None] - 1)
    return DecodePlan(
        layout.pieces(_blocks(tables, has_MB, layout).to(device)),
        (0, *has_MB.sum(1).cumsum(0).tolist()),
        sequence_N.to(device),
        tuple(_mask(part_NX, like) for part_NX in torch.split(last_NX, PIECE)),
        unseen_N1X if unseen_N1X.any() else None,
        most,
        query_BR.flatten().to(device) if most > 1 else None,
        owns_BR.flatten().nonzero().flatten().to(device) if most > 1 else None,
    )


def _query_of(counts_B: Tensor, per_group: int) -> Tensor:
    """[B, X] which query of its sequence a row of the product is, the last one for those that are no query's; X = 1 if R is."""
    most = int(counts_B.max())
    if most == 1:
        return torch.zeros(len(counts_B), 1, dtype=torch.int64)
    return (torch.arange(round_up(most * per_group, ROWS)) // per_group).minimum(counts_B[:, None] - 1)


def _mask(last_NX: Tensor, like: Tensor) -> Tensor | None:
    """Mask of some splits, given the last key that each query sees; who sees none looks at all and is not heard."""
    if (last_NX >= SPLIT - 1).all():
        return None
    hidden_NXS = (torch.arange(SPLIT) > last_NX[..., None]) & (last_NX >= 0)[..., None]
    return torch.zeros(hidden_NXS.shape, dtype=like.dtype).masked_fill_(hidden_NXS, -math.inf)[:, None].to(like.device)


def _blocks(tables: Sequence[Sequence[int]], has_MB: Tensor, layout: Layout) -> Tensor:
    """Blocks of all splits, split by split."""
    most, num_sequences = has_MB.shape
    table_BMP = np.full((num_sequences, most * SPLIT // layout.block_size), layout.num_blocks - 1)
    for row, table in zip(table_BMP, tables, strict=True):
        row[: len(table)] = table
    return torch.from_numpy(table_BMP).view(num_sequences, most, -1).transpose(0, 1)[has_MB].flatten()


def paged_decode(q_THK: Tensor, read: Callable[[Tensor], KeysValues], plan: DecodePlan) -> Tensor:
    """o_THK of a plan's queries; `read` gives k_LGK and v_LGK of rows of the cache."""
    num_sequences, (_, num_heads, head_dim) = plan.starts[1], q_THK.shape
    q_NGXK: Tensor | None = None
    parts = []
    for number, (rows, mask_N1XS) in enumerate(zip(plan.pieces, plan.masks, strict=True)):
        k_NSGK, v_NSGK = (x_LGK.view(-1, SPLIT, *x_LGK.shape[1:]) for x_LGK in read(rows))
        if q_NGXK is None:
            q_BGXK = _queries(q_THK, plan, k_NSGK.shape[2])
            q_NGXK = q_BGXK if len(plan.starts) == 2 else q_BGXK.index_select(0, plan.sequence_of_split)
        splits = slice(number * PIECE, (number + 1) * PIECE)
        spread_N1XS = None if mask_N1XS is None else mask_N1XS.expand(-1, -1, q_NGXK.shape[2], -1)
        parts.append(partial(q_NGXK[splits], k_NSGK.transpose(1, 2), v_NSGK.transpose(1, 2), spread_N1XS))
    o_NGXK, lse_NGX = parts[0] if len(parts) == 1 else (torch.cat(both) for both in zip(*parts, strict=True))
    o_BGXK = o_NGXK if len(plan.starts) == 2 else _merge_splits(o_NGXK, lse_NGX, plan)
    per_group = num_heads // o_BGXK.shape[1]
    o_BGYK = o_BGXK[:, :, : plan.num_queries * per_group]
    o_BGRQK = o_BGYK.reshape(num_sequences, -1, plan.num_queries, per_group, head_dim)
    o_THK = o_BGRQK.transpose(1, 2).reshape(num_sequences * plan.num_queries, num_heads, head_dim)
    return o_THK if plan.place is None else o_THK.index_select(0, plan.place)


def _queries(q_THK: Tensor, plan: DecodePlan, num_groups: int) -> Tensor:
    """q_BGXK."""
    if plan.query is not None:
        q_THK = q_THK.index_select(0, plan.query)
    q_BRGQK = q_THK.view(-1, plan.num_queries, num_groups, q_THK.shape[1] // num_groups, q_THK.shape[2])
    q_BGXK = q_BRGQK.transpose(1, 2).flatten(2, 3)
    return F.pad(q_BGXK, (0, 0, 0, -q_BGXK.shape[2] % ROWS))


def _merge_splits(o_NGXK: Tensor, lse_NGX: Tensor, plan: DecodePlan) -> Tensor:
    """Add the splits of each sequence, in order."""
    num_sequences = plan.starts[1]
    lse_NGX = lse_NGX.double()
    log_weight_NGX = lse_NGX - lse_NGX[:num_sequences].index_select(0, plan.sequence_of_split)
    if plan.unseen is not None:
        log_weight_NGX.masked_fill_(plan.unseen, -math.inf)
    terms_NGXK = _weighted(o_NGXK, log_weight_NGX)
    sum_BGXK = terms_NGXK[:num_sequences]
    for begin, end in pairwise(plan.starts[1:]):
        sum_BGXK[: end - begin].add_(terms_NGXK[begin:end])
    return _mean(sum_BGXK, o_NGXK.dtype)
