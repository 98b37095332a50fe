"""The keys and values of one layer, in blocks, kept by a codec: written by slot, read by block, moved as bytes.

The runner holds one pool for each layer; block numbers are those of `blocks.BlockPool`. Attention never looks at keys and
values before they have been through the pool, not even at those of its own chunk, so that what a token sees does not
depend on how the work was cut, whatever the codec loses.

On the CPU the memory is zeroed by the operating system when it is first touched, so that an idle engine takes none.

Shapes: T tokens, N blocks, P blocks of the pool and one that stays zero, U tokens per block, G key-value heads, K head_dim,
R elements of a record, Z bytes of one block; a leading 2 is keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lianlu.kernels.kv_codec import Codec


@dataclass(frozen=True)
class PoolShape:
    """Blocks, tokens in a block, and key-value heads of a layer."""

    num_blocks: int
    block_size: int
    num_groups: int


class KvPool:
    """Blocks of one layer; the last one stays zero and stands for what is not there."""

    def __init__(self, codec: Codec, shape: PoolShape, device: torch.device) -> None:
        self.codec = codec
        self.device = device
        size = (2, shape.num_blocks + 1, shape.block_size, shape.num_groups, codec.record_size)
        self._store = _zeros(size, codec.stored, device)

    @property
    def num_bytes(self) -> int:
        """Bytes of all blocks."""
        return self._store.nbytes

    @property
    def block_bytes(self) -> int:
        """Z: bytes of one block, as `export` gives it."""
        return self._store[:, 0].nbytes

    def write(self, slots_2T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        """Keep keys and values of tokens. Slots (`block * U + place`) are counted through all keys and on through values."""
        records = self.codec.encode(torch.cat((k_TGK, v_TGK)))
        self._store.view(-1, *self._store.shape[3:]).index_copy_(0, slots_2T, records)

    def read(self, rows_2N: Tensor) -> tuple[Tensor, Tensor]:
        """k_LGK and v_LGK of whole blocks in the dtype of computation, L = N U; their blocks are counted likewise."""
        records = self._store.flatten(0, 1).flatten(1).index_select(0, rows_2N)
        k_LGK, v_LGK = self.codec.decode(records.view(2, -1, *self._store.shape[3:]))
        return k_LGK, v_LGK

    def wipe(self, blocks: Sequence[int]) -> None:
        """Set blocks to zero: nothing that is no number may be left for the next holder, not even where it does not look."""
        self._store.index_fill_(1, torch.tensor(blocks, dtype=torch.int64, device=self.device), 0)

    def export(self, blocks: Sequence[int]) -> Tensor:
        """bytes_NZ of blocks, on the CPU: a copy."""
        index_N = torch.tensor(blocks, dtype=torch.int64, device=self.device)
        return self._store.index_select(1, index_N).transpose(0, 1).flatten(1).contiguous().view(torch.uint8).cpu()

    def load(self, blocks: Sequence[int], bytes_NZ: Tensor) -> None:
        """Fill blocks with what `export` gave."""
        index_N = torch.tensor(blocks, dtype=torch.int64, device=self.device)
        stored_N = bytes_NZ.to(self.device).contiguous().view(self.codec.stored)
        self._store.index_copy_(1, index_N, stored_N.view(-1, 2, *self._store.shape[2:]).transpose(0, 1))


def _zeros(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(*size, dtype=dtype, device=device)
    raw = np.zeros(int(np.prod(size)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(*size)
