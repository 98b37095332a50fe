"""The runner: the chunks of a step as one packed batch through the model, over keys and values that lie in blocks.

It holds the only large memory of the engine besides the weights, one tensor of blocks per layer, and the step tensors,
which are allocated once. Logits are computed for those rows only that give a token. Rows come in multiples of
`ROWS`, because the order of summation in a matrix product on the CPU depends on their number below that; with it, a
sequence's numbers are the same to the bit in any batch (see `kernels.paged_attention`).

Shapes: T rows of a step, N rows that sample, B decoding rows, H query heads, G key-value heads, K head_dim, L keys of
one sequence, P blocks, U tokens per block, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lianlu.engine.scheduler import Chunk
from lianlu.kernels.paged_attention import KEYS, ROWS, DecodePlan, chunk_attention, paged_decode, plan_decode, round_up
from lianlu.model.decoder import Decoder


def kv_bytes_per_token(model: Decoder) -> int:
    """Bytes of keys and values that one token takes in all layers."""
    config = model.config
    size = next(model.parameters()).dtype.itemsize
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size


@dataclass(frozen=True)
class Prompt:
    """Rows `begin:end` of a step that are a chunk of one prompt; `num_keys` is how far its sequence is computed then."""

    begin: int
    end: int
    num_keys: int
    blocks: Tensor


class Runner:
    """A model with paged keys and values."""

    def __init__(self, model: Decoder, num_blocks: int, block_size: int, max_batch_tokens: int) -> None:
        self.model = model
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.device = next(model.parameters()).device
        self._like = next(model.parameters())
        self._cache: list[Tensor] = []
        self.clear()
        rows = round_up(max_batch_tokens, ROWS)
        self._staged = torch.zeros(4, rows, dtype=torch.int64)
        self._rows = self._staged.numpy()

    def _new_layer(self) -> Tensor:
        """Blocks of one layer; the last one stays zero and stands for what is not there.

        On the CPU the memory is zeroed by the operating system when it is first touched, so that an idle engine takes none.
        """
        config = self.model.config
        shape = (2, self.num_blocks + 1, self.block_size, config.num_key_value_heads, config.head_dim)
        if self.device.type != "cpu":
            return torch.zeros(shape, dtype=self._like.dtype, device=self.device)
        raw = np.zeros(int(np.prod(shape)) * self._like.dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(raw).view(self._like.dtype).view(shape)

    def clear(self, for_good: bool = False) -> None:
        """Forget all keys and values; `for_good` gives the memory back and makes the runner useless."""
        self._cache.clear()
        if not for_good:
            self._cache += [self._new_layer() for _ in range(self.model.config.num_hidden_layers)]

    def wipe(self, blocks: ReadSequence[int]) -> None:
        """Set blocks to zero: nothing that is no number may be left for the next holder, not even where it does not look."""
        index = torch.tensor(blocks, dtype=torch.int64, device=self.device)
        for cache_2PUGK in self._cache:
            cache_2PUGK.index_fill_(1, index, 0.0)

    @torch.inference_mode()
    def step(self, chunks: ReadSequence[Chunk]) -> Tensor:
        """Compute the chunks; logits_NV of their sampling rows, chunk by chunk in the order given."""
        chunks_in_rows = sorted(chunks, key=lambda chunk: chunk.end - chunk.start > 1)
        num_rows, ends = self._stage(chunks_in_rows)
        ids_T, positions_T, slots_T, lengths_T = self._staged[:, : round_up(num_rows, ROWS)].to(self.device)
        attend = _Attend(self._cache, slots_T[:num_rows], self._plan(chunks_in_rows), self._prompts(chunks_in_rows))
        h_TD = self.model.hidden(ids_T, positions_T, attend, lengths_T)
        order = [row for chunk in chunks for row in range(ends[id(chunk)] - chunk.num_samples, ends[id(chunk)])]
        if not order:
            return h_TD.new_empty(0, self.model.config.vocab_size)
        padded = order + [order[-1]] * (-len(order) % ROWS)
        return self.model.head(h_TD[padded])[: len(order)]

    def _stage(self, chunks: ReadSequence[Chunk]) -> tuple[int, dict[int, int]]:
        """Fill the step tensors: ids, positions, slots, lengths. Number of rows, and the row behind each chunk's last."""
        ids, positions, slots, lengths = self._rows
        row, ends = 0, {}
        size = self.block_size
        for chunk in chunks:
            sequence, end = chunk.sequence, row + chunk.end - chunk.start
            if end == row + 1:
                ids[row], positions[row], lengths[row] = sequence.tokens[chunk.start], chunk.start, chunk.end
                slots[row] = sequence.blocks[chunk.start // size] * size + chunk.start % size
            else:
                place = np.arange(chunk.start, chunk.end)
                ids[row:end], positions[row:end], lengths[row:end] = sequence.span(chunk.start, chunk.end), place, place + 1
                slots[row:end] = np.asarray(sequence.blocks)[place // size] * size + place % size
            np.maximum(lengths[row:end], sequence.num_prompt, out=lengths[row:end])
            row = ends[id(chunk)] = end
        fill = round_up(row, ROWS)
        self._rows[:, row:fill] = 0
        lengths[row:fill] = 1
        return row, ends

    def _plan(self, chunks: ReadSequence[Chunk]) -> DecodePlan | None:
        decoding = [chunk for chunk in chunks if chunk.end - chunk.start == 1]
        if not decoding:
            return None
        tables = [chunk.sequence.blocks[: -(-chunk.end // self.block_size)] for chunk in decoding]
        return plan_decode(tables, [chunk.end for chunk in decoding], self.num_blocks + 1, self.block_size, self._like)

    def _prompts(self, chunks: ReadSequence[Chunk]) -> list[Prompt]:
        prompts, row = [], 0
        for chunk in chunks:
            end = row + chunk.end - chunk.start
            if end - row > 1:
                table = chunk.sequence.blocks[: -(-chunk.end // self.block_size)]
                missing = -(-round_up(chunk.end, KEYS) // self.block_size) - len(table)
                blocks = torch.tensor(table + [self.num_blocks] * missing, device=self.device)
                prompts.append(Prompt(row, end, chunk.end, torch.cat((blocks, blocks + self.num_blocks + 1))))
            row = end
        return prompts


class _Attend:
    """What the model is handed for attention in one step: writes keys and values into their blocks, then looks at them."""

    def __init__(self, cache: list[Tensor], slots_T: Tensor, plan: DecodePlan | None, prompts: list[Prompt]) -> None:
        self._cache = cache
        self._slots_T = slots_T
        self._plan = plan
        self._prompts = prompts

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
        cache_2PUGK = self._cache[layer]
        num_rows = len(self._slots_T)
        for part, x_TGK in enumerate((k_TGK, v_TGK)):
            cache_2PUGK[part].flatten(0, 1).index_copy_(0, self._slots_T, x_TGK[:num_rows])
        o_THK = torch.empty_like(q_THK)
        o_THK[num_rows:] = 0
        first = self._prompts[0].begin if self._prompts else num_rows
        if self._plan is not None:
            o_THK[:first] = paged_decode(q_THK[:first], cache_2PUGK, self._plan)
        for prompt in self._prompts:
            kv_2LGK = cache_2PUGK.flatten(0, 1).index_select(0, prompt.blocks).view(2, -1, *cache_2PUGK.shape[3:])
            rows = slice(prompt.begin, prompt.end)
            o_THK[rows] = chunk_attention(q_THK[rows], kv_2LGK[0], kv_2LGK[1], prompt.num_keys)
        return o_THK
