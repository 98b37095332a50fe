"""The runner: the chunks of a step as one packed batch through the model, over keys and values that lie in blocks.

It holds the only large memory of the engine besides the weights, one pool of blocks per layer, and the step tensors,
which are allocated once. Logits are computed for those rows only that give a token. Rows come in multiples of
`ROWS`, because the order of summation in a matrix product on the CPU depends on their number below that; with it, a
sequence's numbers are the same to the bit in any batch (see `kernels.paged_attention`).

Chunks of up to `SHORT` rows (decoding, with proposed tokens or without, and ends of prompts) are attended to together,
those of similar size at a time, so that the work in Python does not grow with their number in every layer.

Shapes: T rows of a step, N rows that sample, H query heads, G key-value heads, K head_dim, V vocab_size, Z bytes of a block.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from lianlu.engine.adapters import Adapters
from lianlu.engine.kv import KvPool, PoolShape
from lianlu.engine.scheduler import Chunk
from lianlu.kernels.kv_codec import Codec, CodecName, codec_for
from lianlu.kernels.paged_attention import (
    KEYS,
    ROWS,
    DecodePlan,
    Layout,
    paged_decode,
    plan_decode,
    prompt_attention,
    round_up,
)
from lianlu.model.decoder import Decoder

SHORT = 32


def codec_of(model: Decoder, kv: CodecName = "auto") -> Codec:
    """How the keys and values of a model are kept. Raises: ConfigError if its heads do not suit the codec."""
    return codec_for(kv, model.config.head_dim, next(model.parameters()).dtype)


def kv_bytes_per_token(model: Decoder, kv: CodecName = "auto") -> int:
    """Bytes of keys and values that one token takes in all layers."""
    config = model.config
    return 2 * config.num_hidden_layers * config.num_key_value_heads * codec_of(model, kv).record_bytes


@dataclass(frozen=True)
class Rows:
    """A chunk in a step: it is the rows `begin:end`."""

    chunk: Chunk
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Span:
    """Rows `begin:end` of a step that are attended to at once: many short chunks by `plan`, or one long chunk.

    `pieces` and `num_keys` say where the keys of a long chunk lie, and how far its sequence is computed then.
    """

    begin: int
    end: int
    plan: DecodePlan | None = None
    pieces: tuple[Tensor, ...] = ()
    num_keys: int = 0


class Runner:
    """A model with paged keys and values."""

    def __init__(
        self,
        model: Decoder,
        num_blocks: int,
        block_size: int,
        max_batch_tokens: int,
        adapters: Adapters | None = None,
        kv: CodecName = "auto",
    ) -> None:
        """`adapters` are those that sequences name. Raises: ConfigError if the model's heads do not suit the codec `kv`."""
        self.model = model
        self.max_batch_tokens = max_batch_tokens
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.device = next(model.parameters()).device
        self._adapters = adapters
        self.codec = codec_of(model, kv)
        self.pools: list[KvPool] = []
        self.clear()
        config = model.config
        self._layout = Layout(num_blocks + 1, block_size, config.num_attention_heads // config.num_key_value_heads)
        self._like = torch.empty(0, dtype=self.codec.compute, device=self.device)
        rows = round_up(max_batch_tokens, ROWS)
        self._staged = torch.zeros(4, rows, dtype=torch.int64)
        self._rows = self._staged.numpy()

    def clear(self, for_good: bool = False) -> None:
        """Forget all keys and values; `for_good` gives the memory back and makes the runner useless."""
        config = self.model.config
        shape = PoolShape(self.num_blocks, self.block_size, config.num_key_value_heads)
        self.pools.clear()
        if not for_good:
            self.pools += [KvPool(self.codec, shape, self.device) for _ in range(config.num_hidden_layers)]

    def wipe(self, blocks: ReadSequence[int]) -> None:
        """Set blocks to zero in all layers."""
        for pool in self.pools:
            pool.wipe(blocks)

    @property
    def block_bytes(self) -> int:
        """Z: bytes of one block in all layers, as `export` gives it."""
        return sum(pool.block_bytes for pool in self.pools)

    def export(self, blocks: ReadSequence[int]) -> Tensor:
        """bytes_NZ of blocks, layer after layer: a copy."""
        return torch.cat([pool.export(blocks) for pool in self.pools], dim=1)

    def load(self, blocks: ReadSequence[int], bytes_NZ: Tensor) -> None:
        """Fill blocks with what `export` of a runner of the same model, codec and block size gave."""
        for pool, part_NZ in zip(self.pools, bytes_NZ.chunk(len(self.pools), dim=1), strict=True):
            pool.load(blocks, part_NZ)

    @torch.inference_mode()
    def step(self, chunks: ReadSequence[Chunk]) -> Tensor:
        """Compute the chunks; logits_NV of their sampling rows, chunk by chunk in the order given."""
        rows = _in_rows(chunks)
        self._stage(rows)
        num_rows = rows[-1].end
        ids_T, positions_T, slots_T, lengths_T = self._staged[:, : round_up(num_rows, ROWS)].to(self.device)
        attend = _Attend(self.pools, self._both(slots_T[:num_rows]), self._spans(rows))
        with self._under_adapters(rows):
            h_TD = self.model.hidden(ids_T, positions_T, attend, lengths_T)
        ends = {id(part.chunk): part.end for part in rows}
        order = [row for chunk in chunks for row in range(ends[id(chunk)] - chunk.num_samples, ends[id(chunk)])]
        if not order:
            return h_TD.new_empty(0, self.model.config.vocab_size)
        padded = order + [order[-1]] * (-len(order) % ROWS)
        return self.model.head(h_TD[padded])[: len(order)]

    def _under_adapters(self, rows: ReadSequence[Rows]) -> AbstractContextManager[None]:
        """Each row with the adapter of its sequence."""
        if self._adapters is None:
            return nullcontext()
        return self._adapters.over([(part.chunk.sequence.request.adapter, part.size) for part in rows])

    def _both(self, slots_T: Tensor) -> Tensor:
        """Slots of keys and of values."""
        return torch.cat((slots_T, slots_T + (self.num_blocks + 1) * self.block_size))

    def _stage(self, rows: ReadSequence[Rows]) -> None:
        """Fill the step tensors: ids, positions, slots, lengths."""
        ids, positions, slots, lengths = self._rows
        size = self.block_size
        for part in rows:
            chunk, begin, end = part.chunk, part.begin, part.end
            sequence = chunk.sequence
            if part.size == 1:
                ids[begin], positions[begin], lengths[begin] = sequence.span(chunk.start, chunk.end)[0], chunk.start, chunk.end
                slots[begin] = sequence.blocks[chunk.start // size] * size + chunk.start % size
            else:
                place = np.arange(chunk.start, chunk.end)
                ids[begin:end], positions[begin:end] = sequence.span(chunk.start, chunk.end), place
                first = chunk.start // size
                table = np.asarray(sequence.blocks[first : -(-chunk.end // size)])
                slots[begin:end] = table[place // size - first] * size + place % size
                lengths[begin:end] = place + 1
            np.maximum(lengths[begin:end], sequence.num_prompt, out=lengths[begin:end])
        fill = round_up(end, ROWS)
        self._rows[:, end:fill] = 0
        lengths[end:fill] = 1

    def _spans(self, rows: ReadSequence[Rows]) -> list[Span]:
        """What is attended to at once: short chunks of one class together, long ones by themselves."""
        spans: list[Span] = []
        for size_class, group in groupby(rows, lambda part: _size_class(part.size)):
            parts = list(group)
            spans += [self._decode(parts)] if size_class else [self._prompt(part) for part in parts]
        return spans

    def _decode(self, parts: ReadSequence[Rows]) -> Span:
        ends = [part.chunk.end for part in parts]
        tables = [self._table(part.chunk) for part in parts]
        plan = plan_decode(tables, ends, [part.size for part in parts], self._layout, self._like)
        return Span(parts[0].begin, parts[-1].end, plan)

    def _prompt(self, part: Rows) -> Span:
        table = self._table(part.chunk)
        missing = -(-round_up(part.chunk.end, KEYS) // self.block_size) - len(table)
        blocks = torch.tensor(table + [self.num_blocks] * missing, device=self.device)
        return Span(part.begin, part.end, pieces=self._layout.pieces(blocks), num_keys=part.chunk.end)

    def _table(self, chunk: Chunk) -> list[int]:
        return chunk.sequence.blocks[: -(-chunk.end // self.block_size)]


def _size_class(size: int) -> int:
    """Number of bits of `size - 1`, and one; 0 for a long chunk."""
    return (size - 1).bit_length() + 1 if size <= SHORT else 0


def _in_rows(chunks: ReadSequence[Chunk]) -> list[Rows]:
    """The chunks in the order of rows: by class of size, and in a class those with more splits first."""
    order = sorted(chunks, key=lambda chunk: (_size_class(chunk.end - chunk.start), -chunk.end))
    rows, begin = [], 0
    for chunk in order:
        rows.append(Rows(chunk, begin, begin + chunk.end - chunk.start))
        begin = rows[-1].end
    return rows


class _Attend:
    """What the model is handed for attention in one step: writes keys and values into their blocks, then looks at them."""

    def __init__(self, pools: ReadSequence[KvPool], slots_2T: Tensor, spans: ReadSequence[Span]) -> None:
        self._pools = pools
        self._slots_2T = slots_2T
        self._spans = spans

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
        pool, num_rows = self._pools[layer], len(self._slots_2T) // 2
        pool.write(self._slots_2T, k_TGK[:num_rows], v_TGK[:num_rows])
        o_THK = torch.empty_like(q_THK)
        o_THK[num_rows:] = 0
        for span in self._spans:
            rows = slice(span.begin, span.end)
            if span.plan is not None:
                o_THK[rows] = paged_decode(q_THK[rows], pool.read, span.plan)
            else:
                o_THK[rows] = prompt_attention(q_THK[rows], map(pool.read, span.pieces), span.num_keys)
        return o_THK
