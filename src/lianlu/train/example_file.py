"""Rendered examples on disk, memory-mapped, and written so that a killed process goes on where the last commit was.

    NAME.ids         token ids of all examples behind one another, u16 or u32, little-endian
    NAME.mask        u8 for each: whether it is to be predicted
    NAME.ends        i64 for each example: where it ends in the two files above
    NAME.names       UTF-8: where each example comes from
    NAME.name_ends   i64 for each example: where its name ends

Files only grow. `sizes()` after a commit says how long each is; opened again with these sizes, they are cut back to them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lianlu.core.files import disk_errors

_BUFFER_BYTES = 1 << 18
KINDS = ("ids", "mask", "ends", "names", "name_ends")


def id_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds the ids."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@contextlib.contextmanager
def growing(path: Path, size: int) -> Iterator[IO[bytes]]:
    """A file to append to, cut back to `size` bytes."""
    with open(path, "r+b" if path.exists() else "w+b", buffering=_BUFFER_BYTES) as file:
        file.truncate(size)
        file.seek(0, os.SEEK_END)
        yield file


class ExampleWriter:
    """Appends examples to the files `NAME.*` in `folder`; use it in a `with` block."""

    def __init__(self, folder: Path, name: str, vocab_size: int, sizes: Mapping[str, int]) -> None:
        self._dtype = id_type(vocab_size)
        self._stack = contextlib.ExitStack()
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        with disk_errors(folder):
            for kind in KINDS:
                self._files[kind] = self._stack.enter_context(growing(folder / f"{name}.{kind}", sizes.get(kind, 0)))
        self._num_ids = sizes.get("ids", 0) // self._dtype.itemsize
        self._num_name_bytes = sizes.get("names", 0)
        self.num_examples = sizes.get("ends", 0) // 8

    def add(self, ids: npt.NDArray[np.uint32], mask: npt.NDArray[np.bool_], name: str) -> None:
        """Append one example. Raises: ArtifactError for the disk."""
        label = name.encode("utf-8", "replace")
        self._num_ids += len(ids)
        self._num_name_bytes += len(label)
        self.num_examples += 1
        with disk_errors(self._folder):
            self._files["ids"].write(ids.astype(self._dtype).tobytes())
            self._files["mask"].write(mask.astype(np.uint8).tobytes())
            self._files["ends"].write(np.int64(self._num_ids).astype("<i8").tobytes())
            self._files["names"].write(label)
            self._files["name_ends"].write(np.int64(self._num_name_bytes).astype("<i8").tobytes())

    def commit(self) -> dict[str, int]:
        """Put everything on the disk; returns the size of each file."""
        sizes = {}
        with disk_errors(self._folder):
            for kind, file in self._files.items():
                file.flush()
                os.fsync(file.fileno())
                sizes[kind] = file.tell()
        return sizes

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with disk_errors(self._folder):
            self._stack.close()


def has_sizes(folder: Path, name: str, sizes: Mapping[str, int]) -> bool:
    """Whether the files are there and at least so long."""
    paths = {kind: folder / f"{name}.{kind}" for kind in KINDS}
    return all(path.is_file() and path.stat().st_size >= sizes.get(kind, 0) for kind, path in paths.items())


class ExampleFile:
    """The examples in `NAME.*` as read-only memory maps."""

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self._ids = _mapped(folder / f"{name}.ids", id_type(vocab_size))
        self._mask = _mapped(folder / f"{name}.mask", np.dtype(np.uint8))
        self._ends = _mapped(folder / f"{name}.ends", np.dtype("<i8"))
        self._names = _mapped(folder / f"{name}.names", np.dtype(np.uint8))
        self._name_ends = _mapped(folder / f"{name}.name_ends", np.dtype("<i8"))

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Inputs of each example: one fewer than its ids, since the last one is only predicted."""
        return (np.diff(self._ends, prepend=0) - 1).astype(np.int32)

    def ids(self, index: int) -> npt.NDArray[Any]:
        """Token ids of one example."""
        return self._ids[_span(self._ends, index)]

    def mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Which of them are to be predicted."""
        return np.asarray(self._mask[_span(self._ends, index)], dtype=bool)

    def name(self, index: int) -> str:
        """Where the example comes from."""
        return self._names[_span(self._name_ends, index)].tobytes().decode("utf-8", "replace")


def _span(ends: npt.NDArray[np.int64], index: int) -> slice:
    return slice(int(ends[index - 1]) if index else 0, int(ends[index]))


def _mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A read-only memory map; an empty array where nothing can be mapped."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
