"""Inputs packed for one pass through the model, no keys and values kept: what scores and embeddings are made of.

Inputs go in groups of consecutive ones. Within a group, what two inputs have in common at their beginning is computed
once: the four answers to one question, or the questions after the same examples. The rest of an input looks back at the
rows it shares. The numbers of a token are the same to the bit as when it is generated, whatever is packed beside it. With
dynamic NTK, what the tokens of a long input compute to depends on its length; such inputs share nothing.

Shapes: T rows of a group, L keys of one input, H query heads, G key-value heads, K head_dim, D hidden_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lianlu.kernels.kv_codec import Codec
from lianlu.kernels.paged_attention import KEYS, ROWS, chunk_attention, round_up
from lianlu.model.config import DynamicScaling
from lianlu.model.decoder import Decoder

MIN_SHARED = 8
UNLIMITED = 1 << 62
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """Rows `begin:end` of a group: what an input does not share; `rows` are those of the whole input, shared ones included."""

    begin: int
    end: int
    rows: Tensor
    num_keys: int


@dataclass
class Group:
    """Inputs that go through the model together: where each token of each of them lies.

    Inputs of more than `max_shared` tokens share nothing.
    """

    max_shared: int = UNLIMITED
    rows_of: list[Ids] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    seen: list[Ids] = field(default_factory=list)

    @classmethod
    def of(cls, model: Decoder) -> Group:
        """An empty group for a model."""
        is_dynamic = isinstance(model.config.rope_scaling, DynamicScaling)
        return cls(model.config.max_position_embeddings if is_dynamic else UNLIMITED)

    def add(self, ids: Ids) -> None:
        """Append an input; what it shares with an earlier one is not repeated."""
        shown = ids if len(ids) <= self.max_shared else ids[:0]
        shared, owner = max(((common(shown, other), -index) for index, other in enumerate(self.seen)), default=(0, 0))
        if shared < MIN_SHARED:
            shared = 0
        begin, end = len(self.ids), len(self.ids) + len(ids) - shared
        head = self.rows_of[-owner][:shared] if shared else np.empty(0, dtype=np.int64)
        rows = np.concatenate((head, np.arange(begin, end)))
        self.seen.append(shown)
        self.rows_of.append(rows)
        if end > begin:
            self.ids += ids[shared:].tolist()
            self.positions += range(shared, len(ids))
            self.lengths += [len(ids)] * (end - begin)
            padded = np.concatenate((rows, np.full(-len(rows) % KEYS, rows[0])))
            self.segments.append(Segment(begin, end, torch.from_numpy(padded), len(rows)))


def common(one: Ids, other: Ids) -> int:
    """Length of the common beginning."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size


def cuts(inputs: Sequence[Sequence[int]], max_tokens: int, max_inputs: int) -> Iterator[slice]:
    """Cut a list into groups of up to `max_tokens` new tokens (a longer input is alone); depends on the list only."""
    begin, size = 0, 0
    for index, ids in enumerate(inputs):
        before = inputs[index - 1] if index > begin else ()
        new = len(ids) - common(np.asarray(ids), np.asarray(before))
        if index > begin and (size + new > max_tokens or index - begin >= max_inputs):
            yield slice(begin, index)
            begin, size, new = index, 0, len(ids)
        size += new
    if begin < len(inputs):
        yield slice(begin, len(inputs))


def hidden(model: Decoder, group: Group, codec: Codec | None = None) -> Tensor:
    """h_TD of the rows of a group, and of a few more that fill up, with what `codec` makes of keys and values."""
    device = next(model.parameters()).device
    fill = round_up(len(group.ids), ROWS) - len(group.ids)
    ids_T, positions_T, lengths_T = torch.tensor(
        [group.ids + [0] * fill, group.positions + [0] * fill, group.lengths + [1] * fill], device=device
    )
    segments = [Segment(s.begin, s.end, s.rows.to(device), s.num_keys) for s in group.segments]

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
        if codec is not None:
            k_TGK, v_TGK = codec.decode(codec.encode(k_TGK)), codec.decode(codec.encode(v_TGK))
        o_THK = torch.zeros_like(q_THK)
        for part in segments:
            k_LGK, v_LGK = k_TGK.index_select(0, part.rows), v_TGK.index_select(0, part.rows)
            o_THK[part.begin : part.end] = chunk_attention(q_THK[part.begin : part.end], k_LGK, v_LGK, part.num_keys)
        return o_THK

    return model.hidden(ids_T, positions_T, attend, lengths_T)
