"""The order in which pretraining sees the documents of a source: one endless stream, a pure function of seed and position.

Documents are cut into pieces of at most `max_segment` tokens; the pieces are shuffled anew in every epoch and laid end to
end. Whoever wants tokens names their position in that stream, so a step number is all that has to be remembered. Shuffling
pieces rather than documents matters: a long document would otherwise fill many batches in a row. Every token of a document
is a target exactly once an epoch: the input of its first token is the end-of-text token, as in generation, that of any other
the token before it. The piece at the end of a batch is cut, and the rest of it begins the next one.

So that memory does not grow with the source, documents are shuffled in blocks of BLOCK_TOKENS tokens: an epoch takes the
blocks in a random order and shuffles the pieces within each. The shard stage has put the documents into a random order
already; a source of one block is shuffled as a whole. A stream holds 8 bytes a block, and 24 bytes for each piece of
two blocks. Limits: 2^20 blocks (70 T tokens) a source, 2^24 epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from lianlu.formats.shards import TokenShard
from lianlu.train.packing import Segment

HELD_OUT_KEY = 0x6C696E6B
BLOCK_TOKENS = 1 << 26
Index = npt.NDArray[np.int64]
_BLOCK_ORDER = (1 << 20) - 1


def block_edges(shard: TokenShard, block_tokens: int = BLOCK_TOKENS) -> Index:
    """Documents at which the blocks of a shard begin, and their number at the end: block b is edges[b] to edges[b + 1]."""
    ends = np.arange(block_tokens, shard.num_tokens, block_tokens)
    inner = np.searchsorted(shard.offsets, ends, side="left")
    edges: Index = np.unique(np.concatenate([[0], inner, [shard.num_documents]])).astype(np.int64)
    return edges


@dataclass(frozen=True)
class Source:
    """A shard to stream from: its blocks, the token its documents begin after, and the number of its first document.

    With `members`, a truth value for each document, only those documents are in it.
    """

    shard: TokenShard
    separator: int
    edges: Index
    first_document: int = 0
    members: npt.NDArray[np.bool_] | None = None

    @property
    def num_blocks(self) -> int:
        """Blocks of the shard."""
        return len(self.edges) - 1

    def lengths(self, documents: Index) -> Index:
        """Tokens of documents."""
        found: Index = self.shard.offsets[documents + 1] - self.shard.offsets[documents]
        return found

    def documents(self, block: int) -> Index:
        """All documents of a block."""
        first, last = self.edges[block], self.edges[block + 1]
        return np.arange(first, last) if self.members is None else first + np.flatnonzero(self.members[first:last])

    @cached_property
    def block_tokens(self) -> Index:
        """Tokens of each block."""
        if self.members is None:
            return np.diff(self.shard.offsets[self.edges])
        blocks = range(self.num_blocks)
        return np.array([self.lengths(self.documents(block)).sum() for block in blocks], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch."""
        return int(self.block_tokens.sum())

    def longer(self, block: int, limit: int) -> Index:
        """The documents of a block that have more than `limit` tokens."""
        documents = self.documents(block)
        return documents[self.lengths(documents) > limit]

    def tokens_longer_than(self, limit: int) -> int:
        """Tokens in documents of more than `limit` tokens."""
        return int(sum(self.lengths(self.longer(block, limit)).sum() for block in range(self.num_blocks)))


@dataclass(frozen=True)
class Choice:
    """Some documents of a source: those of a block by its number, and how many tokens they have in each block."""

    documents: Callable[[int], Index]
    block_tokens: Index


def all_documents(source: Source) -> Choice:
    """Every document."""
    return Choice(source.documents, source.block_tokens)


def long_documents(source: Source, limit: int) -> Choice:
    """Those of more than `limit` tokens."""
    blocks = [source.lengths(source.longer(block, limit)).sum() for block in range(source.num_blocks)]
    return Choice(lambda block: source.longer(block, limit), np.array(blocks, dtype=np.int64))


@dataclass(frozen=True)
class _Order:
    """The pieces of a block as an epoch takes them: document, where in it the piece starts, and where it ends in the block."""

    documents: Index
    starts: Index
    ends: Index


class DocumentStream:
    """An endless shuffled stream over a source, or over a choice of its documents."""

    def __init__(self, source: Source, key: tuple[int, int], max_segment: int, choice: Choice | None = None) -> None:
        self._source, self._max_segment = source, max_segment
        self._seed, self._number = key
        choice = choice or all_documents(source)
        self._choose, self._block_tokens = choice.documents, choice.block_tokens
        self.num_tokens = int(self._block_tokens.sum())
        self._blocks = lru_cache(maxsize=2)(self._shuffled_blocks)
        self._pieces = lru_cache(maxsize=2)(self._shuffled_pieces)

    def segments(self, start: int, num_tokens: int) -> list[Segment]:
        """Tokens `start` to `start + num_tokens` of the stream as sequences of at most `max_segment`."""
        found: list[Segment] = []
        while num_tokens > 0:
            epoch, position = divmod(start, self.num_tokens)
            order, ends = self._blocks(epoch)
            at = int(np.searchsorted(ends, position, side="right"))
            block = int(order[at])
            begin = position - (int(ends[at]) - int(self._block_tokens[block]))
            taken = self._within(self._pieces(epoch, block), begin, num_tokens, found)
            start, num_tokens = start + taken, num_tokens - taken
        return found

    def _within(self, pieces: _Order, position: int, num_tokens: int, found: list[Segment]) -> int:
        """Add up to `num_tokens` tokens of one block from `position` on; returns how many it had."""
        wanted, last = num_tokens, int(pieces.ends[-1])
        at = int(np.searchsorted(pieces.ends, position, side="right"))
        while wanted > 0 and position < last:
            begins = int(pieces.ends[at - 1]) if at else 0
            take = min(int(pieces.ends[at]) - position, wanted)
            begin = int(pieces.starts[at]) + position - begins
            found.append(self._piece(int(pieces.documents[at]), (begin, begin + take)))
            position, wanted, at = position + take, wanted - take, at + 1
        return num_tokens - wanted

    def _piece(self, document: int, span: tuple[int, int]) -> Segment:
        source = self._source
        piece = document_piece(source.shard, document, span, source.separator)
        return Segment(piece.inputs, piece.targets, source.first_document + document)

    def _random(self, epoch: int, block: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self._seed, epoch | block << 24 | self._number << 44]))

    def _shuffled_blocks(self, epoch: int) -> tuple[Index, Index]:
        order = self._random(epoch, _BLOCK_ORDER).permutation(len(self._block_tokens))
        return order, np.cumsum(self._block_tokens[order])

    def _shuffled_pieces(self, epoch: int, block: int) -> _Order:
        chosen = self._choose(block)
        sizes = self._source.lengths(chosen)
        counts = -(-sizes // self._max_segment)
        documents = np.repeat(chosen, counts)
        starts = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * self._max_segment
        lengths = np.minimum(np.repeat(sizes, counts) - starts, self._max_segment)
        order = self._random(epoch, block).permutation(len(lengths))
        return _Order(documents[order], starts[order], np.cumsum(lengths[order]))


def document_piece(shard: TokenShard, document: int, span: tuple[int, int], separator: int) -> Segment:
    """Inputs and targets of `span` within a document; the document's first input is `separator`."""
    base = int(shard.offsets[document])
    start, end = base + span[0], base + span[1]
    targets = np.asarray(shard.tokens[start:end], dtype=np.int64)
    first = separator if span[0] == 0 else int(shard.tokens[start - 1])
    return Segment(np.concatenate([[first], targets[:-1]]), targets, document)


def held_out_documents(shard: TokenShard, max_tokens: int) -> list[int]:
    """Indices of whole documents, chosen evenly and always alike, that hold at most `max_tokens` together.

    Where every document is longer than that, it is the shortest one.
    """
    lengths = np.diff(shard.offsets)
    chosen: list[int] = []
    left, least = max_tokens, int(lengths.min(initial=max_tokens + 1))
    for index in np.random.Generator(np.random.Philox(key=HELD_OUT_KEY)).permutation(len(lengths)):
        if left < least:
            break
        if lengths[index] <= left:
            chosen.append(int(index))
            left -= int(lengths[index])
    return sorted(chosen) if chosen or not len(lengths) else [int(lengths.argmin())]


def document_segments(shard: TokenShard, documents: Iterable[int], separator: int, max_segment: int) -> list[Segment]:
    """Documents as segments of at most `max_segment`, each token a target once."""
    segments: list[Segment] = []
    for index in documents:
        length = int(shard.offsets[index + 1] - shard.offsets[index])
        spans = ((start, min(start + max_segment, length)) for start in range(0, length, max_segment))
        segments.extend(document_piece(shard, index, span, separator) for span in spans)
    return segments
