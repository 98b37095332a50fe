"""Reading GGUF files (versions 2 and 3): metadata, tensor table and weights, with numpy alone.

The tokenizer takes the vocabulary and the chat template from `metadata`, the model takes shapes and weights. The file is
mapped, not read, so that opening a large model costs only its header. Specification: `docs/gguf.md` in the ggml repository.

Limits: little-endian files; the block types of `gguf_blocks`. Reading only.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lianlu.core.errors import DataError
from lianlu.formats.gguf_blocks import BLOCK_TYPES, Bytes, Floats, dequantise

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 8

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
NUMPY = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `shape` in numpy's order (rows first), `kind` the id of its block type."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    num_bytes: int


class GGUF:
    """An open GGUF file: `metadata` (key -> value), `tensors` (name -> TensorInfo), `array(name)`."""

    def __init__(self, path: Path, buffer: mmap.mmap, metadata: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._buffer = buffer

    def raw(self, name: str) -> Bytes:
        """The bytes of a tensor as they are in the file. Raises: DataError for an unknown name."""
        info = self.tensors.get(name)
        if info is None:
            raise DataError(f"{self.path} has no tensor {name!r}", hint="the file may be of another model family")
        return np.frombuffer(self._buffer, dtype=np.uint8, count=info.num_bytes, offset=info.offset)

    def array(self, name: str) -> Floats:
        """A tensor as float32, rows first. Raises: DataError for an unknown name."""
        raw = self.raw(name)
        info = self.tensors[name]
        return dequantise(raw, BLOCK_TYPES[info.kind]).reshape(info.shape)

    def release(self) -> None:
        """Let go of the memory that holds what was read of the file; it is read anew when asked for."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._buffer.madvise(mmap.MADV_DONTNEED)


def read_gguf(path: Path | str) -> GGUF:
    """Open a GGUF file. Raises: DataError that names the file if it is missing, damaged, cut short or of another version."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="check the path; pull the model again if it is damaged") from error
    return _Cursor(path, buffer).file()


class _Cursor:
    """A position in the header, with every read checked against the end of the file."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self._path = path
        self._buffer = buffer
        self._at = 0

    def file(self) -> GGUF:
        """The whole header."""
        num_tensors, num_keys = self._counts()
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            metadata[key] = self._value(self._number("I"))
        heads = [self._tensor_head() for _ in range(num_tensors)]
        start = self._data_start(metadata)
        tensors = {head[0]: self._placed(head, start) for head in heads}
        if len(tensors) != num_tensors:
            raise self._damaged("two tensors have the same name")
        return GGUF(self._path, self._buffer, metadata, tensors)

    def _counts(self) -> tuple[int, int]:
        if self._take(4) != MAGIC:
            raise DataError(f"{self._path} is not a GGUF file", hint="give a .gguf file or a folder with safetensors")
        version = self._number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            reason = "is big-endian" if swapped in VERSIONS else f"has GGUF version {version}"
            raise DataError(f"{self._path} {reason}", hint="little-endian versions 2 and 3 are read; update lianlu")
        return self._number("Q"), self._number("Q")

    def _data_start(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._damaged(f"general.alignment is {alignment!r}")
        return -(-self._at // alignment) * alignment

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self._path} is damaged or cut short: {what}", hint="download it again, for example by `lianlu pull`")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._buffer):
            raise self._damaged(f"it ends at byte {len(self._buffer)}, but {end} were announced")
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self) -> str:
        data = self._take(self._number("Q"))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"a string before byte {self._at} is not UTF-8") from error

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(self._number("I"), self._number("Q"))
        if kind not in SCALARS:
            raise self._damaged(f"unknown value type {kind} at byte {self._at}")
        return self._number(SCALARS[kind])

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind in NUMPY:
            width = np.dtype(NUMPY[kind]).itemsize
            return list(np.frombuffer(self._take(count * width), dtype=NUMPY[kind]).tolist())
        if kind != STRING or count > len(self._buffer):
            raise self._damaged(f"an array of {count} values of type {kind} at byte {self._at}")
        return [self._string() for _ in range(count)]

    def _tensor_head(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        num_dimensions = self._number("I")
        if num_dimensions > MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name} has {num_dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(num_dimensions))[::-1]
        return name, shape, self._number("I"), self._number("Q")

    def _placed(self, head: tuple[str, tuple[int, ...], int, int], start: int) -> TensorInfo:
        name, shape, kind, offset = head
        block = BLOCK_TYPES.get(kind)
        if block is None:
            known = ", ".join(entry.name for entry in BLOCK_TYPES.values())
            raise DataError(f"{self._path}: tensor {name} has block type {kind}", hint=f"types that are read: {known}")
        num_weights = 1
        for size in shape:
            num_weights *= size
        if shape and shape[-1] % block.num_weights:
            raise self._damaged(f"a row of tensor {name} is no whole number of {block.name} blocks")
        num_bytes = num_weights // block.num_weights * block.num_bytes
        if start + offset + num_bytes > len(self._buffer):
            raise self._damaged(f"tensor {name} reaches beyond the end of the file")
        return TensorInfo(name, shape, kind, start + offset, num_bytes)
