"""Two baselines that a language model has to beat: gzip, and a byte 5-gram model.

The 5-gram model interpolates all orders with Witten-Bell weights (Witten & Bell 1991, in the recursive form of Chen &
Goodman 1998): `P_k(b | c) = (N(c b) + T(c) P_{k-1}(b | c')) / (N(c) + T(c))`, where T(c) counts the different bytes seen after
c and c' is c without its first byte; below it all is the uniform distribution over 256 bytes. It is trained on training text.
gzip -9 has no training: it sees the held-out text only, as one stream.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ORDER = 5
_Counts = npt.NDArray[np.int64]


def gzip_bits_per_byte(texts: Iterable[bytes]) -> float:
    """Bits per byte of `gzip -9` over the texts joined into one."""
    joined = b"".join(texts)
    return 8 * len(gzip.compress(joined, compresslevel=9, mtime=0)) / max(len(joined), 1)


@dataclass(frozen=True)
class _Level:
    """Counts of one order: byte strings and their contexts as integers in rising order."""

    grams: npt.NDArray[np.uint64]
    gram_counts: _Counts
    contexts: npt.NDArray[np.uint64]
    context_counts: _Counts
    context_kinds: _Counts


class ByteNgram:
    """A byte n-gram model over separate texts; each starts with an empty (zero) context."""

    def __init__(self, texts: Iterable[bytes], order: int = ORDER) -> None:
        self._order = order
        data, targets = _joined(texts, order)
        self._levels = [_count(_keys(data, targets, width)) for width in range(1, order + 1)]

    def probabilities(self, texts: Iterable[bytes]) -> npt.NDArray[np.float64]:
        """Probability of every byte of the texts, given the bytes before it in its text."""
        data, targets = _joined(texts, self._order)
        found = np.full(len(targets), 1 / 256)
        for width, level in enumerate(self._levels, 1):
            keys = _keys(data, targets, width)
            seen = _look_up(level.grams, level.gram_counts, keys)
            total = _look_up(level.contexts, level.context_counts, keys >> np.uint64(8))
            kinds = _look_up(level.contexts, level.context_kinds, keys >> np.uint64(8))
            found = np.where(total > 0, (seen + kinds * found) / np.maximum(total + kinds, 1), found)
        return found

    def bits_per_byte(self, texts: Sequence[bytes]) -> float:
        """Mean of -log2 probability over the bytes of the texts."""
        return float(-np.log2(self.probabilities(texts)).mean()) if any(texts) else 0.0


def _joined(texts: Iterable[bytes], order: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The texts in one array with `order - 1` zeros before each, and where their bytes are."""
    gap = bytes(order - 1)
    parts = [np.frombuffer(gap + text, dtype=np.uint8) for text in texts]
    data = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)
    is_text = np.ones(len(data), dtype=bool)
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    for shift in range(order - 1):
        is_text[starts + shift] = False
    return data, np.flatnonzero(is_text)


def _keys(data: npt.NDArray[np.uint8], targets: npt.NDArray[Any], width: int) -> npt.NDArray[np.uint64]:
    """The `width` bytes that end at each target as one integer, the target in the lowest byte."""
    keys = np.zeros(len(targets), dtype=np.uint64)
    for back in range(width - 1, -1, -1):
        keys = (keys << np.uint64(8)) | data[targets - back].astype(np.uint64)
    return keys


def _count(keys: npt.NDArray[np.uint64]) -> _Level:
    grams, gram_counts = np.unique(keys, return_counts=True)
    contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
    totals = np.add.reduceat(gram_counts, first) if len(first) else np.empty(0, dtype=np.int64)
    return _Level(grams, gram_counts, contexts, totals, np.diff(np.append(first, len(grams))))


def _look_up(known: npt.NDArray[np.uint64], values: _Counts, keys: npt.NDArray[np.uint64]) -> _Counts:
    """The value of each key, 0 for an unknown one."""
    if len(known) == 0:
        return np.zeros(len(keys), dtype=np.int64)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, values[at], 0)
