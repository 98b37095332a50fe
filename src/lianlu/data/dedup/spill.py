"""Records on their way to where they belong: files by hash, each small enough to be held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PER_PARTITION = 1 << 16
MAX_PARTITIONS = 512
"""Records that a partition is meant to hold, and files that are open at a time."""


def num_partitions(records: int) -> int:
    """How many partitions so many records take: a power of two."""
    return min(1 << (max(records - 1, 0) // PER_PARTITION).bit_length(), MAX_PARTITIONS)


class Spill:
    """Files of records of one kind; close it before reading."""

    def __init__(self, folder: Path, kind: npt.DTypeLike, partitions: int) -> None:
        self.kind = np.dtype(kind)
        self.paths = [folder / f"{number:04d}" for number in range(partitions)]
        folder.mkdir(parents=True)
        with ExitStack() as stack:
            self._files = [stack.enter_context(open(path, "wb")) for path in self.paths]
            self._stack = stack.pop_all()

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, records: npt.NDArray[Any], hashes: npt.NDArray[np.uint64]) -> None:
        """Write each record to the partition of its hash, those of a partition in the order they came."""
        numbers = hashes % np.uint64(len(self.paths))
        order = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers.astype(np.int64), minlength=len(self.paths)))
        for file, piece in zip(self._files, np.split(records[order], ends[:-1]), strict=True):
            file.write(piece.tobytes())

    def put(self, number: int, records: npt.NDArray[Any]) -> None:
        """Write records to one partition."""
        self._files[number].write(np.ascontiguousarray(records, self.kind).tobytes())

    def read(self, number: int) -> npt.NDArray[Any]:
        """All records of a partition, in the order they came."""
        return np.fromfile(self.paths[number], self.kind)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """The partitions, one after another."""
        return (self.read(number) for number in range(len(self.paths)))
