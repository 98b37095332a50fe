"""JSONL, plain, gzip (`.gz`) or Zstandard (`.zst`): one JSON object a line.

The reader never stops at a bad line: it yields a `Record` for each good line and a `Rejected` with line number and reason
for each bad one, so that a caller can keep a ledger. A line above `max_line_bytes` is skipped in pieces and never held
whole. A truncated or damaged archive gives every line that could be unpacked, then one `Rejected`.

Limits: UTF-8 only (a byte order mark is allowed); Zstandard windows up to 128 MiB.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write
from lianlu.formats.gzip_members import GzipMembers
from lianlu.formats.unpacking import PIECE_BYTES, Unpacking

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")
TEXT_FIELDS = ("text", "content")
MAX_LINE_BYTES = 50_000_000
EXCERPT_BYTES = 200
_SKIP_BYTES = 1 << 20


@dataclass(slots=True)
class Record:
    """A good line: its number (from 1), the text found in one of the text fields, and the whole object."""

    line: int
    text: str
    value: dict[str, Any]
    num_bytes: int = 0


@dataclass(slots=True)
class Rejected:
    """A bad line: its number, why, its size as far as it was read, and how it begins."""

    line: int
    reason: str
    num_bytes: int = 0
    excerpt: str = ""


def is_jsonl(path: Path) -> bool:
    """Whether the name says that the file holds JSONL."""
    return path.name.lower().endswith(SUFFIXES)


def read_records(
    path: Path, text_fields: Sequence[str] = TEXT_FIELDS, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[Record | Rejected]:
    """Read a JSONL file line by line; blank lines and a lianlu header line are passed over.

    `text_fields` are tried in order; a line without any of them is rejected.
    Raises: DataError when the file cannot be opened or has a future format.
    """
    for item in read_lines(path, max_line_bytes):
        parsed = item if isinstance(item, Rejected) else _parse(path, item[0], item[1], text_fields)
        if parsed is not None:
            yield parsed


def read_lines(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes] | Rejected]:
    """Number, from 1, and bytes of each line; one that is too long, and where an archive breaks off, as `Rejected`.

    Raises: DataError when the file cannot be opened.
    """
    with open_bytes(path) as file:
        number = 0
        try:
            while line := file.readline(max_line_bytes + 1):
                number += 1
                if len(line) > max_line_bytes:
                    yield _oversized(file, number, line, max_line_bytes)
                else:
                    yield number, line
        except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
            yield Rejected(number + 1, damage(error))


def damage(error: Exception) -> str:
    """What is wrong with a file that could be opened and not be read to its end."""
    return "truncated archive" if isinstance(error, EOFError) else f"damaged archive or unreadable: {error}"


def read_values(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line, strictly. Raises: DataError that names file and line of the first bad one."""
    for item in read_records(path, text_fields=()):
        if isinstance(item, Rejected):
            raise DataError(
                f"{path}, line {item.line}: {item.reason}", hint="mend or remove that line; the clean stage skips bad lines"
            )
        yield item.line, item.value


def write_values(path: Path, values: Iterable[Mapping[str, Any]]) -> int:
    """Write objects as JSONL, packed as the name says; equal values give equal bytes. Returns how many."""
    count = 0
    with atomic_write(path) as raw, _packed(raw, path.name) as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            count += 1
    return count


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain, `.gz` or `.zst` file as a buffered stream of unpacked bytes. Raises: DataError if it cannot be opened."""
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error
        name = path.name.lower()
        if name.endswith(".gz"):
            yield io.BufferedReader(GzipMembers(raw), 1 << 16)
        elif name.endswith(".zst"):
            yield io.BufferedReader(_ZstdReader(raw), 1 << 16)
        else:
            yield raw


class _ZstdReader(Unpacking):
    """Unpacks Zstandard frames and, unlike the library's own reader, raises EOFError when the last one is cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame: Any = None
        self._input = b""

    def unpack(self) -> bool:
        piece = self._input or self._raw.read(PIECE_BYTES)
        if not piece:
            if self._frame is not None:
                raise EOFError("the last Zstandard frame is cut off")
            return False
        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        self._ready = memoryview(self._frame.decompress(piece))
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
        return True


@contextlib.contextmanager
def _packed(raw: IO[bytes], name: str) -> Iterator[Any]:
    if name.endswith(".gz"):
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
            yield file
    elif name.endswith(".zst"):
        with zstandard.ZstdCompressor(level=6).stream_writer(raw, closefd=False) as file:
            yield file
    else:
        yield raw


def _oversized(file: IO[bytes], number: int, start: bytes, limit: int) -> Rejected:
    """Skip the rest of a line that is too long, in pieces."""
    size, last = len(start), start[-1:]
    excerpt = start[:EXCERPT_BYTES]
    while last != b"\n" and (piece := file.readline(_SKIP_BYTES)):
        size, last = size + len(piece), piece[-1:]
    return Rejected(number, f"line above the limit of {limit:,} bytes", size, excerpt.decode("utf-8", "replace"))


def _parse(path: Path, number: int, line: bytes, text_fields: Sequence[str]) -> Record | Rejected | None:
    reason = ""
    try:
        if not line.strip():
            return None
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        if b"\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be stored: ValueError
        if not isinstance(value, dict):
            reason = "not a JSON object"
        elif number == 1 and "lianlu" in value:
            _check_header(path, value)
            return None
        else:
            text = next((value[name] for name in text_fields if isinstance(value.get(name), str)), None)
            if text is not None or not text_fields:
                return Record(number, text or "", value, len(line))
            reason = f"no text in {' or '.join(text_fields)}"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (byte {error.start} of the line)"
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}"
    return Rejected(number, reason, len(line), line[:EXCERPT_BYTES].decode("utf-8", "replace").rstrip())


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    found = header.get("format", 0)
    if header["lianlu"] != "documents":
        raise DataError(f"{path} holds {header['lianlu']}, not documents", hint="point to a file of documents")
    if not isinstance(found, int) or found > 1:
        raise DataError(f"{path} has format {found}, this lianlu reads up to 1", hint="upgrade lianlu")
