"""What a sequence length costs: how much of a corpus is cropped, and how much of its sequences is padding (printed by `shard`).

Documents up to that length are laid whole into sequences by best fit, the longest first (Ding et al. 2024, arXiv 2404.10830);
what stays empty is padding. What a longer document has beyond the length is cropped: lost where long documents are cut off,
read without its beginning where they go on in another sequence, as they do in the pretrain stage, which pads nothing.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PackRates:
    """Shares (0..1): of documents that are cropped, of tokens that are, and of places in sequences that stay empty."""

    num_sequences: int
    cropped_documents: float
    cropped_tokens: float
    padded: float


def pack_rates(lengths: npt.NDArray[np.int64], capacity: int) -> PackRates:
    """The rates for documents of these lengths in sequences of `capacity` tokens."""
    long = lengths > capacity
    total = int(lengths.sum())
    kept = np.minimum(lengths, capacity)
    num_sequences = num_bins(kept, capacity)
    return PackRates(
        num_sequences,
        float(long.mean()) if len(lengths) else 0.0,
        1 - int(kept.sum()) / total if total else 0.0,
        1 - int(kept.sum()) / (num_sequences * capacity) if num_sequences else 0.0,
    )


def num_bins(lengths: npt.NDArray[np.int64], capacity: int) -> int:
    """How many bins of `capacity` best fit needs for items of these lengths (1 to `capacity`), the longest first.

    Items of one length are placed together, and so are bins with equal room: time grows with the number of lengths.
    """
    values, counts = np.unique(lengths[lengths > 0], return_counts=True)
    rooms: list[int] = []
    waiting: dict[int, int] = {}
    total = 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            at = bisect.bisect_left(rooms, length)
            room = rooms[at] if at < len(rooms) else capacity
            each = room // length
            bins = -(-left // each)
            if at < len(rooms):
                bins = min(bins, waiting[room])
                _add(rooms, waiting, room, -bins)
            else:
                total += bins
            placed = min(left, bins * each)
            _add(rooms, waiting, room - each * length, placed // each)
            _add(rooms, waiting, room - placed % each * length, int(placed % each > 0))
            left -= placed
    return total


def _add(rooms: list[int], waiting: dict[int, int], room: int, bins: int) -> None:
    """Let so many more bins (or less) have this room; a full bin is forgotten."""
    if not room or not bins:
        return
    before = waiting.get(room, 0)
    waiting[room] = before + bins
    if not before:
        bisect.insort(rooms, room)
    if not waiting[room]:
        del waiting[room], rooms[bisect.bisect_left(rooms, room)]
