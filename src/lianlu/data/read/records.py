"""Records out of JSONL (plain, gzip, Zstandard) and Parquet files, one by one; WanJuan's format is JSONL like any other.

A bad line, and where a truncated file breaks off, is a rejection with its number; what came before it is kept. A line
above the limit is never held whole, so that a file which unpacks to any size needs no memory. A cell of a Parquet file is held
once, unpacked, before its size is known (the format allows two gibibytes); above the limit it goes no further.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.read.media import with_media
from lianlu.data.read.raw import RECORD, Raw
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats import documents, jsonl

ROWS_AT_ONCE = 100
"""Rows of a Parquet file that are unpacked at once."""


def read(raw: Raw, text_fields: tuple[str, ...], max_bytes: int) -> Iterator[Raw]:
    """The records of one file, in order."""
    if raw.file.lower().endswith(".parquet"):
        yield from _parquet(raw, max_bytes)
    else:
        yield from _jsonl(raw, text_fields, max_bytes)


def _jsonl(raw: Raw, text_fields: tuple[str, ...], max_line_bytes: int) -> Iterator[Raw]:
    empty = True
    for item in jsonl.read_records(Path(raw.file), text_fields, max_line_bytes):
        empty = False
        name = f"{raw.path}#{item.line}"
        if isinstance(item, jsonl.Rejected):
            verdict = Verdict("read.bad_line", item.reason, "a JSON object with a text")
            document = documents.Document(name, item.excerpt, path=raw.path)
            yield Raw(name, RECORD, item.num_bytes, path=raw.path, document=document, verdict=verdict)
        else:
            document = documents.from_row(_as_row(item, text_fields), name)
            yield _record(raw, document, item.num_bytes)
    if empty:
        yield Raw(raw.id, RECORD, 0, path=raw.path, verdict=Verdict("read.empty", 0, 1))


def _as_row(item: jsonl.Record, text_fields: tuple[str, ...]) -> dict[str, Any]:
    rest = {key: value for key, value in item.value.items() if key not in text_fields and key not in jsonl.TEXT_FIELDS}
    return {**rest, "text": item.text}


def _parquet(raw: Raw, max_bytes: int) -> Iterator[Raw]:
    """The rows, group by group: a damaged group is a rejection, and those after it are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(raw.file)
    try:
        with pq.ParquetFile(path) as file:
            documents.check_schema(path, file.schema_arrow)
            first = 1
            for group in range(file.num_row_groups):
                yield from _group(raw, file, group, first, max_bytes)
                first += file.metadata.row_group(group).num_rows
            if first == 1:
                yield Raw(raw.id, RECORD, 0, path=raw.path, verdict=Verdict("read.empty", 0, 1))
    except (DataError, pa.ArrowException, OSError, ValueError) as error:
        yield _damaged(raw, f"{raw.path}#1", error)


def _group(raw: Raw, file: Any, group: int, first: int, max_bytes: int) -> Iterator[Raw]:
    """The rows of one group, the first of which is number `first` of its file."""
    import pyarrow as pa

    place = first
    try:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group]):
            sizes = _sizes(batch)
            for row in range(batch.num_rows):
                name = f"{raw.path}#{place}"
                if sizes[row] > max_bytes:  # a cell becomes a string of Python only if it is not too large
                    yield Raw(name, RECORD, sizes[row], path=raw.path, verdict=Verdict("read.max_bytes", sizes[row], max_bytes))
                else:
                    (values,) = batch.slice(row, 1).to_pylist()
                    document = documents.from_row(values, name)
                    yield _record(raw, document, len(document.text.encode("utf-8", "replace")))
                place += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        yield _damaged(raw, f"{raw.path}#{place}", error)


def _sizes(batch: Any) -> list[int]:
    """How many bytes the longest cell of text has in each row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = [0] * batch.num_rows
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type) or pa.types.is_binary(field.type):
            sizes = list(map(max, sizes, pc.fill_null(pc.binary_length(column), 0).to_pylist()))
    return sizes


def _damaged(raw: Raw, name: str, error: Exception) -> Raw:
    reason = error.message if isinstance(error, DataError) else (str(error).splitlines() or [type(error).__name__])[0]
    verdict = Verdict("read.damaged", reason.replace(raw.file, raw.path)[:200], "a whole Parquet file with texts")
    return Raw(name, RECORD, 0, path=raw.path, verdict=verdict)


def _record(raw: Raw, document: documents.Document, num_bytes: int) -> Raw:
    document.path = document.path or raw.path
    document.meta = with_media(document.meta)
    return Raw(document.id, RECORD, num_bytes, path=raw.path, document=document)
