"""Packed batches: token sequences of unequal length behind one another, no padding, no attention across them.

Shapes: T tokens of a batch.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lianlu.kernels.attention import PackedCausal, packed_positions
from lianlu.kernels.cross_entropy import IGNORE, masked_cross_entropy
from lianlu.model.decoder import Decoder

Ids = npt.NDArray[Any]
Segment = tuple[Ids, Ids]


@dataclass(frozen=True)
class Packed:
    """Input ids (T), the target of each position (T; IGNORE: none) and where the segments end; positions restart in each."""

    input_ids: Tensor
    targets: Tensor
    cu_seqlens: list[int]

    @property
    def num_tokens(self) -> int:
        """Positions the model has to compute."""
        return len(self.input_ids)


def pack(segments: Sequence[Segment]) -> Packed:
    """Lay (inputs, targets) pairs of equal length behind one another."""
    inputs = np.concatenate([segment[0] for segment in segments]).astype(np.int64)
    targets = np.concatenate([segment[1] for segment in segments]).astype(np.int64)
    ends = accumulate((len(segment[0]) for segment in segments), initial=0)
    return Packed(torch.from_numpy(inputs), torch.from_numpy(targets), list(ends))


def answer_segment(ids: Sequence[int], mask: Sequence[bool]) -> Segment:
    """Inputs and targets of one rendered sequence; what follows the last trained token is not computed at all."""
    values = np.asarray(ids, dtype=np.int64)
    targets = np.where(np.asarray(mask, dtype=bool)[1:], values[1:], IGNORE)
    used = np.flatnonzero(targets != IGNORE)
    end = int(used[-1]) + 1 if len(used) else 0
    return values[:end], targets[:end]


def packed_loss(model: Decoder, batch: Packed) -> tuple[Tensor, int]:
    """Summed cross-entropy in nats over the targets of a batch, and how many there are."""
    device = model.embed_tokens.weight.device
    positions_T, lengths_T = packed_positions(batch.cu_seqlens, device)
    hidden_TD = model.hidden(batch.input_ids.to(device), positions_T, PackedCausal(batch.cu_seqlens), lengths_T)
    return masked_cross_entropy(hidden_TD, model.head_weight(), batch.targets.to(device))


def in_groups(segments: Sequence[Segment], max_tokens: int) -> Iterator[list[Segment]]:
    """Neighbours up to `max_tokens` together; a longer segment goes alone."""
    group: list[Segment] = []
    size = 0
    for segment in segments:
        if group and size + len(segment[0]) > max_tokens:
            yield group
            group, size = [], 0
        group.append(segment)
        size += len(segment[0])
    if group:
        yield group


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices: each item, in the order given, goes where it leaves the least room, else into a new bin.

    An item longer than `capacity` gets a bin of its own. O(n log n).
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for index, length in enumerate(lengths):
        at = bisect.bisect_left(rooms, (length, -1))
        if at < len(rooms):
            room, chosen = rooms.pop(at)
        else:
            room, chosen = max(capacity, length), len(bins)
            bins.append([])
        bins[chosen].append(index)
        if room > length:
            bisect.insort(rooms, (room - length, chosen))
    return bins
