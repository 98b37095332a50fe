"""The order in which pretraining sees its documents: one endless stream, a pure function of seed and position.

Documents are cut into pieces of at most `max_segment` tokens; the pieces are shuffled anew in every epoch and laid end to
end. Step s takes the next `batch_tokens` of that stream, so a step number is all that has to be remembered. Shuffling pieces
rather than documents matters: a long document would otherwise fill many batches in a row. Every token of a document is a
target exactly once an epoch: the input of its first token is the end-of-text token, as in generation, that of any other the
token before it. The piece at the end of a batch is cut, and the rest of it begins the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.formats.shards import TokenShard
from lianlu.train.packing import Segment

HELD_OUT_KEY = 0x6C696E6B


class DocumentStream:
    """An endless shuffled stream over the documents of a shard (16 bytes of memory for each `max_segment` tokens)."""

    def __init__(self, shard: TokenShard, separator: int, seed: int, max_segment: int) -> None:
        lengths = np.diff(shard.offsets)
        counts = -(-lengths // max_segment)
        self._documents = np.repeat(np.arange(len(lengths)), counts)
        self._starts = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * max_segment
        self._lengths = np.minimum(lengths[self._documents] - self._starts, max_segment)
        self._tokens = shard.tokens
        self._offsets = shard.offsets
        self._separator = separator
        self._seed = seed
        self.num_tokens = int(shard.offsets[-1])
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def segments(self, start: int, num_tokens: int) -> list[Segment]:
        """Tokens `start` to `start + num_tokens` of the stream as sequences of at most `max_segment`."""
        found: list[Segment] = []
        while num_tokens > 0:
            epoch, position = divmod(start, self.num_tokens)
            order, ends = self._order(epoch)
            at = int(np.searchsorted(ends, position, side="right"))
            piece, left = int(order[at]), int(ends[at]) - position
            begin = int(self._starts[piece] + self._lengths[piece]) - left
            take = min(left, num_tokens)
            found.append(self._piece(piece, (begin, begin + take)))
            start, num_tokens = start + take, num_tokens - take
        return found

    def _piece(self, piece: int, span: tuple[int, int]) -> Segment:
        document = int(self._documents[piece])
        return document_piece(self._tokens, int(self._offsets[document]), span, self._separator, document)

    def _shuffled(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        order = np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(len(self._lengths))
        return order, np.cumsum(self._lengths[order])


def document_piece(tokens: npt.NDArray[Any], base: int, span: tuple[int, int], separator: int, document: int) -> Segment:
    """Inputs and targets of `span` within the document at `base`; the document's first input is `separator`."""
    start, end = base + span[0], base + span[1]
    targets = np.asarray(tokens[start:end], dtype=np.int64)
    first = separator if span[0] == 0 else int(tokens[start - 1])
    return Segment(np.concatenate([[first], targets[:-1]]), targets, document)


def held_out_documents(shard: TokenShard, max_tokens: int) -> list[int]:
    """Indices of whole documents, chosen evenly and always alike, that hold at most `max_tokens` together.

    Where every document is longer than that, it is the shortest one.
    """
    lengths = np.diff(shard.offsets)
    chosen: list[int] = []
    left = max_tokens
    for index in np.random.Generator(np.random.Philox(key=HELD_OUT_KEY)).permutation(len(lengths)):
        if lengths[index] <= left:
            chosen.append(int(index))
            left -= int(lengths[index])
    return sorted(chosen) if chosen or not len(lengths) else [int(lengths.argmin())]


def document_segments(shard: TokenShard, documents: Iterable[int], separator: int, max_segment: int) -> list[Segment]:
    """Documents as segments of at most `max_segment`, each token a target once."""
    segments: list[Segment] = []
    for index in documents:
        base, length = int(shard.offsets[index]), int(shard.offsets[index + 1] - shard.offsets[index])
        for start in range(0, length, max_segment):
            span = (start, min(start + max_segment, length))
            segments.append(document_piece(shard.tokens, base, span, separator, index))
    return segments
