"""Which examples make up each step: shuffled anew in every epoch by (seed, epoch), then packed best-fit.

A pure function of lengths and seed. Packing goes window by window, so that its memory stays small beside the examples; what
an epoch consists of is held as two arrays, 8 bytes an example.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from lianlu.train.packing import best_fit

WINDOW = 1 << 17
Ints = npt.NDArray[np.int32]


class Epochs:
    """Examples of `lengths` tokens in steps of at most `capacity` tokens; a longer example has a step of its own."""

    def __init__(self, lengths: npt.NDArray[np.integer], capacity: int, seed: int) -> None:
        self._lengths, self._capacity, self._seed = lengths, capacity, seed
        self._packed = lru_cache(maxsize=2)(self._pack)
        self._ends: list[int] = []

    def examples_at(self, step: int) -> list[int]:
        """Indices of the examples of one step, from 0."""
        epoch = 0
        while step >= self.steps_of(epoch + 1):
            epoch += 1
        order, ends = self._packed(epoch)
        at = step - (self.steps_of(epoch) if epoch else 0)
        chosen: list[int] = order[ends[at - 1] if at else 0 : ends[at]].tolist()
        return chosen

    def steps_of(self, epochs: int) -> int:
        """Steps of so many epochs together."""
        while len(self._ends) < epochs:
            _, ends = self._packed(len(self._ends))
            self._ends.append((self._ends[-1] if self._ends else 0) + len(ends))
        return self._ends[epochs - 1]

    def _pack(self, epoch: int) -> tuple[Ints, Ints]:
        """Examples in the order they are seen, and where each step ends among them."""
        order = np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(len(self._lengths)).astype(np.int32)
        packed: list[Ints] = []
        sizes: list[Ints] = []
        for start in range(0, len(order), WINDOW):
            window = order[start : start + WINDOW]
            bins = best_fit(self._lengths[window].tolist(), self._capacity)
            packed.append(window[np.fromiter(chain.from_iterable(bins), dtype=np.int32, count=len(window))])
            sizes.append(np.fromiter(map(len, bins), dtype=np.int32, count=len(bins)))
        return np.concatenate(packed), np.cumsum(np.concatenate(sizes), dtype=np.int32)
