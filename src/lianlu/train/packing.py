"""Packed batches: token sequences of unequal length behind one another, no padding, no attention across them.

Shapes: T tokens of a batch.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lianlu.kernels.attention import Attend, PackedCausal, packed_positions
from lianlu.kernels.cross_entropy import IGNORE
from lianlu.model.decoder import Decoder
from lianlu.train.parallel.vocab import summed_loss

Ids = npt.NDArray[Any]
NOWHERE = -1
MANY_TOKENS = 1024


@dataclass(frozen=True)
class Segment:
    """One sequence to learn from: input ids and the target of each (IGNORE: none); `source` numbers its document or talk."""

    inputs: Ids
    targets: Ids
    source: int = NOWHERE

    @property
    def num_tokens(self) -> int:
        """Positions the model has to compute."""
        return len(self.inputs)

    @property
    def num_targets(self) -> int:
        """Positions with a target."""
        return int((self.targets != IGNORE).sum())


@dataclass(frozen=True)
class Packed:
    """Sequences behind one another, flat: ids, targets and positions of T tokens, and the attention that keeps them apart.

    `positions` restart in each sequence, `lengths` is that of the sequence a token belongs to. Under sequence parallelism the
    tensors hold one process's tokens, and `attend` reaches those of the others.
    """

    input_ids: Tensor
    targets: Tensor
    positions: Tensor
    lengths: Tensor
    attend: Attend

    @property
    def num_tokens(self) -> int:
        """Positions the model has to compute."""
        return len(self.input_ids)


def pack(segments: Sequence[Segment]) -> Packed:
    """Lay sequences behind one another. None at all become one token without a target: every process takes part in a step.

    Tokens are filled up to a multiple of 64, few ones to a multiple of 16: oneDNN keeps machine code for every number of rows
    it has met, and never gives it back.
    """
    if not segments:
        segments = [Segment(np.zeros(1, dtype=np.int64), np.full(1, IGNORE))]
    inputs = np.concatenate([segment.inputs for segment in segments]).astype(np.int64)
    targets = np.concatenate([segment.targets for segment in segments]).astype(np.int64)
    ends = list(accumulate((segment.num_tokens for segment in segments), initial=0))
    positions_T, lengths_T = packed_positions(ends)
    batch = Packed(torch.from_numpy(inputs), torch.from_numpy(targets), positions_T, lengths_T, PackedCausal(ends))
    return filled(batch, 64 if len(inputs) >= MANY_TOKENS else 16)


def filled(batch: Packed, multiple: int) -> Packed:
    """The batch with a last sequence that has no targets, so that its tokens are a multiple of `multiple`."""
    rest = -batch.num_tokens % multiple
    if not rest or not isinstance(batch.attend, PackedCausal):
        return batch
    return Packed(
        F.pad(batch.input_ids, (0, rest)),
        F.pad(batch.targets, (0, rest), value=IGNORE),
        torch.cat([batch.positions, torch.arange(rest, dtype=batch.positions.dtype)]),
        F.pad(batch.lengths, (0, rest), value=rest),
        PackedCausal([*batch.attend.boundaries, batch.num_tokens + rest]),
    )


def answer_segment(ids: Sequence[int] | Ids, mask: Sequence[bool] | Ids) -> Segment:
    """Inputs and targets of one rendered sequence; what follows the last trained token is not computed at all."""
    values = np.asarray(ids, dtype=np.int64)
    targets = np.where(np.asarray(mask, dtype=bool)[1:], values[1:], IGNORE)
    used = np.flatnonzero(targets != IGNORE)
    end = int(used[-1]) + 1 if len(used) else 0
    return Segment(values[:end], targets[:end])


def packed_hidden(model: Decoder, batch: Packed) -> Tensor:
    """h_TD of a batch, on the device of the model."""
    device = model.embed_tokens.weight.device
    ids_T, positions_T, lengths_T = (x.to(device) for x in (batch.input_ids, batch.positions, batch.lengths))
    return model.hidden(ids_T, positions_T, batch.attend, lengths_T)


def packed_loss(model: Decoder, batch: Packed) -> Tensor:
    """Summed cross-entropy in nats over the targets of a batch."""
    hidden_TD = packed_hidden(model, batch)
    return summed_loss(model, hidden_TD, batch.targets.to(hidden_TD.device))


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices: each item, in the order given, goes where it leaves the least room, else into a new bin.

    An item longer than `capacity` gets a bin of its own. Bins with equal room wait together, so that the sorted list is of
    different rooms only, never of all bins: a few microseconds an item, whatever the lengths are.
    """
    bins: list[list[int]] = []
    rooms: list[int] = []
    waiting: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        at = bisect.bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            chosen = waiting[room].pop()
            bins[chosen].append(index)
            if not waiting[room]:
                del rooms[at], waiting[room]
        else:
            room, chosen = max(capacity, length), len(bins)
            bins.append([index])
        left = room - length
        if left in waiting:
            waiting[left].append(chosen)
        elif left:
            bisect.insort(rooms, left)
            waiting[left] = [chosen]
    return bins
