"""The raw records of one file, whatever holds them: lines of JSON, a JSON array, a Parquet table, or plain text.

    .jsonl .ndjson            a record a line
    .json                     an array; or records one behind the other; or lines, as many files are named
    .parquet                  a record a row
    .txt .md .markdown .rst   the whole file is one document, read in parts of a mebibyte

The JSON kinds may be packed (.gz, .zst). Reading streams: memory does not grow with the file, only with its longest record.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import zstandard

from lianlu.core.errors import DataError
from lianlu.formats import jsonl
from lianlu.formats.examples.json_stream import read_elements
from lianlu.formats.examples.record import Raw

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
PACKED = (".gz", ".zst")
TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".rst")
HEADERS = ("conversations", "documents")
PART_BYTES = 1 << 20
ROWS = 64
_HEAD_BYTES = 1 << 16


def suffix_of(path: Path) -> str:
    """What the name says about the content: .jsonl for `a.JSONL.gz`."""
    name = path.name.lower()
    packed = next((end for end in PACKED if name.endswith(end)), "")
    return Path(name.removesuffix(packed)).suffix


def is_text(path: Path) -> bool:
    """Whether the name is that of a plain text."""
    return path.suffix.lower() in TEXT_SUFFIXES


def is_records(path: Path) -> bool:
    """Whether the name is that of a file of records."""
    return suffix_of(path) in JSON_SUFFIXES or path.suffix.lower() == ".parquet"


def counts_lines(path: Path) -> bool:
    """Whether a record's place is its line, from 1; otherwise it is its index, from 0."""
    return not is_text(path) and path.suffix.lower() != ".parquet" and not _is_stream(path)


def read_raw(path: Path) -> Iterator[Raw]:
    """Every record of a file, in order; a header line of lianlu is passed over.

    Raises: DataError when the file cannot be opened, or is a damaged table.
    """
    if is_text(path):
        return read_text(path, 0.0, 1.0)
    if path.suffix.lower() == ".parquet":
        return _read_rows(path)
    return read_elements(path) if _is_stream(path) else _read_lines(path)


def header_kind(path: Path) -> str:
    """What lianlu wrote into the first line or the schema of a file, or empty. Raises: DataError if it is none of examples."""
    if is_text(path):
        return ""
    if path.suffix.lower() == ".parquet":
        stamp = {key.decode(): value.decode("utf-8", "replace") for key, value in _schema_stamp(path).items()}
    else:
        stamp = _header(_head(path).split(b"\n", 1)[0]) or {}
    kind = str(stamp.get("lianlu", ""))
    if kind and kind not in HEADERS:
        raise DataError(f"{path} holds {kind}, not examples to train on", hint="point to conversations or documents")
    if kind and str(stamp.get("format", "1")) != "1":
        raise DataError(f"{path} has format {stamp['format']}, this lianlu reads up to 1", hint="upgrade lianlu")
    return kind


def read_text(path: Path, start: float, stop: float) -> Iterator[Raw]:
    """A text, or the share of it from `start` to `stop`, in parts that end with a line; all but the last one `continue`.

    Line ends become line feeds.
    """
    with jsonl.open_bytes(path) as file:
        size = path.stat().st_size
        at, end = _cut(file, size, start), _cut(file, size, stop)
        file.seek(at)
        decode = codecs.getincrementaldecoder("utf-8-sig" if at == 0 else "utf-8")().decode
        index = 0
        while index == 0 or at < end:
            data = file.read(min(PART_BYTES, end - at))
            data += file.readline(min(_HEAD_BYTES, end - at - len(data))) if data and not data.endswith(b"\n") else b""
            at += len(data)
            is_last = at >= end or not data
            try:
                text = decode(data, final=is_last).replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                yield Raw(index, {"text": ""}, f"not UTF-8 text: {error.reason}; nothing after it is read")
                return
            yield Raw(index, {"text": text}, continues=not is_last)
            index += 1
            if is_last:
                return


def _cut(file: IO[bytes], size: int, share: float) -> int:
    """The byte at which `share` of a text ends: after the next line, else after the next word, else anywhere."""
    at = int(size * share)
    if at <= 0 or at >= size:
        return min(max(at, 0), size)
    file.seek(at)
    window = file.read(_HEAD_BYTES)
    for mark in (b"\n", b" "):
        if (found := window.find(mark)) >= 0:
            return at + found + 1
    skipped = next((index for index, byte in enumerate(window) if byte & 0xC0 != 0x80), len(window))
    return at + skipped


def _read_lines(path: Path) -> Iterator[Raw]:
    for item in jsonl.read_lines(path):
        if isinstance(item, jsonl.Rejected):
            yield Raw(item.line, item.excerpt, item.reason)
        elif item[1].strip(b"\xef\xbb\xbf \t\r\n") and not (item[0] == 1 and _header(item[1])):
            yield Raw(*item)


def _read_rows(path: Path) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            index = 0
            for batch in file.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    yield Raw(index, row)
                    index += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _schema_stamp(path: Path) -> Mapping[bytes, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path} is not a whole Parquet file: {reason}", hint="it may be truncated: copy or make it again")


def _head(path: Path) -> bytes:
    with jsonl.open_bytes(path) as file:
        try:
            return file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
        except (EOFError, OSError, zlib.error, zstandard.ZstdError):
            return b""


def _header(line: bytes) -> dict[str, Any] | None:
    """The header of a file that lianlu wrote."""
    if b'"lianlu"' not in line:
        return None
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "lianlu" in value else None


def _is_stream(path: Path) -> bool:
    """Whether values are not one a line: an array, or an object that is spread over lines."""
    head = _head(path)
    first, _, rest = head.partition(b"\n")
    is_line = not rest.strip() or _is_json(first)
    if head.startswith(b"["):
        return not (rest.strip() and is_line)
    return head.startswith(b"{") and not is_line and (first.strip() == b"{" or suffix_of(path) == ".json")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
