"""Token shards: the token ids of many documents in one memory-mapped file.

Layout, little-endian:

    header      64 bytes: magic "LIANLUTS", format u32, bytes per token u32 (2 or 4), num_tokens u64, num_documents u64,
                vocab_size u64, padding, CRC-32 of the 60 bytes before it
    tokens      num_tokens x u16 or u32, padded with zeros to a multiple of 8 bytes
    offsets     (num_documents + 1) x i64: document i is tokens[offsets[i]:offsets[i + 1]]
    text_bytes  num_documents x u64: UTF-8 bytes of each document's text, so that bits per byte can be computed

Opening checks header, size and offsets; token values are not read until they are used.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write

FORMAT = 1
MAGIC = b"LIANLUTS"
HEADER_BYTES = 64
_FIELDS = struct.Struct("<8sIIQQQ20x")
_DTYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


@dataclass(frozen=True)
class TokenShard:
    """An open shard: `tokens` is a read-only memory map (u16 or u32), `offsets` i64 (D+1), `text_bytes` u64 (D)."""

    path: Path
    vocab_size: int
    tokens: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    text_bytes: npt.NDArray[np.uint64]

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.text_bytes)

    def document(self, index: int) -> npt.NDArray[Any]:
        """Token ids of one document, its end-of-text token included."""
        return self.tokens[int(self.offsets[index]) : int(self.offsets[index + 1])]


class ShardWriter:
    """Writes a shard document by document; as a context manager, so that the file is whole or absent.

    with ShardWriter(path, vocab_size=8192) as shard:
        shard.add(ids, text_bytes=len(text.encode()))
    """

    def __init__(self, path: Path, vocab_size: int) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.num_tokens = 0
        self._dtype = _DTYPES[2 if vocab_size <= 1 << 16 else 4]
        self._offsets = array("q", [0])
        self._text_bytes = array("Q")
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes]

    def __enter__(self) -> ShardWriter:
        self._file = self._stack.enter_context(atomic_write(self.path))
        self._file.write(b"\0" * HEADER_BYTES)
        return self

    def add(self, ids: Sequence[int] | npt.NDArray[Any], text_bytes: int) -> None:
        """Append a document. Raises: DataError for an id outside the vocabulary."""
        values = np.asarray(ids, dtype=np.int64)
        outside = values[(values < 0) | (values >= self.vocab_size)]
        if outside.size:
            raise DataError(f"token id {outside[0]} is outside the vocabulary of {self.vocab_size}", hint="check the tokenizer")
        self._file.write(values.astype(self._dtype).tobytes())
        self.num_tokens += len(values)
        self._offsets.append(self.num_tokens)
        self._text_bytes.append(text_bytes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._file.write(b"\0" * (-self.num_tokens * self._dtype.itemsize % 8))
            self._file.write(np.asarray(self._offsets, dtype="<i8").tobytes())
            self._file.write(np.asarray(self._text_bytes, dtype="<u8").tobytes())
            self._file.seek(0)
            self._file.write(_header(self._dtype.itemsize, self.num_tokens, len(self._text_bytes), self.vocab_size))
        self._stack.__exit__(kind, error, trace)


def _header(width: int, num_tokens: int, num_documents: int, vocab_size: int) -> bytes:
    body = _FIELDS.pack(MAGIC, FORMAT, width, num_tokens, num_documents, vocab_size)
    return body + struct.pack("<I", zlib.crc32(body))


def open_shard(path: Path) -> TokenShard:
    """Open a shard memory-mapped. Raises: DataError that names the file if it is missing, foreign, damaged or too new."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="run the shard stage, or check the path") from error
    width, num_tokens, num_documents, vocab_size = _read_header(path, header)
    offsets_at = HEADER_BYTES + (num_tokens * width + 7) // 8 * 8
    bytes_at = offsets_at + 8 * (num_documents + 1)
    expected = bytes_at + 8 * num_documents
    if size != expected:
        raise DataError(
            f"{path} has {size:,} bytes where {expected:,} were written", hint="it is truncated: run the shard stage again"
        )
    shard = TokenShard(
        path,
        vocab_size,
        _mapped(path, _DTYPES[width], HEADER_BYTES, num_tokens),
        _mapped(path, np.dtype("<i8"), offsets_at, num_documents + 1),
        _mapped(path, np.dtype("<u8"), bytes_at, num_documents),
    )
    if shard.offsets[0] != 0 or shard.offsets[-1] != num_tokens or bool(np.any(shard.offsets[1:] < shard.offsets[:-1])):
        raise DataError(f"{path} has damaged document offsets", hint="run the shard stage again")
    return shard


def _read_header(path: Path, header: bytes) -> tuple[int, int, int, int]:
    if header[: len(MAGIC)] != MAGIC:
        raise DataError(
            f"{path} is not a token shard", hint="a shard is made by the shard stage; point to its train.bin or held_out.bin"
        )
    if len(header) < HEADER_BYTES:
        raise DataError(f"{path} is truncated inside its header", hint="run the shard stage again")
    _, version, width, num_tokens, num_documents, vocab_size = _FIELDS.unpack(header[:-4])
    if struct.pack("<I", zlib.crc32(header[:-4])) != header[-4:]:
        raise DataError(f"{path} has a damaged header", hint="run the shard stage again")
    if version > FORMAT:
        raise DataError(
            f"{path} has format {version}, this lianlu reads up to {FORMAT}", hint="upgrade lianlu, or make the shard again"
        )
    if width not in _DTYPES:
        raise DataError(f"{path} stores tokens in {width} bytes", hint="run the shard stage again")
    return width, num_tokens, num_documents, vocab_size


def _mapped(path: Path, dtype: np.dtype[Any], offset: int, count: int) -> npt.NDArray[Any]:
    """A read-only memory map; an empty array where nothing can be mapped."""
    if count == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,))
