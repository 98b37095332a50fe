"""Records out of JSONL (plain, gzip, Zstandard) and Parquet files, one by one; WanJuan's format is JSONL like any other.

A bad line, and where a truncated file breaks off, is a rejection with its number; what came before it is kept. A line
above the limit is never held whole, so that a file which unpacks to any size needs no memory. A cell of a Parquet file is held
once, unpacked, before its size is known (the format allows two gibibytes); above the limit it goes no further.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.read.media import LISTS, interleaved, with_media
from lianlu.data.read.plain import plain
from lianlu.data.read.raw import RECORD, Raw
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats import documents, jsonl

ROWS_AT_ONCE = 100
"""Rows of a Parquet file that are unpacked at once."""


def read(raw: Raw, text_fields: tuple[str, ...], max_bytes: int) -> Iterator[Raw]:
    """The records of one file, in order."""
    if raw.file.lower().endswith(".parquet"):
        yield from _parquet(raw, text_fields, max_bytes)
    else:
        yield from _jsonl(raw, text_fields, max_bytes)


def _jsonl(raw: Raw, text_fields: tuple[str, ...], max_line_bytes: int) -> Iterator[Raw]:
    empty = True
    try:
        for item in jsonl.read_records(Path(raw.file), (), max_line_bytes):
            empty = False
            name = f"{raw.path}#{item.line}"
            if isinstance(item, jsonl.Rejected):
                yield _refused(raw, name, item.reason, item.num_bytes, item.excerpt)
            elif row := _with_text(item.value, text_fields):
                yield _record(raw, name, row, item.num_bytes)
            else:
                told = json.dumps(item.value, ensure_ascii=False)[: jsonl.EXCERPT_BYTES]
                yield _refused(raw, name, f"no text in {' or '.join(text_fields)}", item.num_bytes, told)
    except DataError as error:
        empty = False
        yield _damaged(raw, f"{raw.path}#1", error)
    if empty:
        yield Raw(raw.id, RECORD, 0, path=raw.path, verdict=Verdict("read.empty", 0, 1))


def _with_text(value: dict[str, Any], text_fields: tuple[str, ...]) -> dict[str, Any] | None:
    """The row with the first of the texts in it, or that of lists of texts and pictures; None if it has neither."""
    text = next((value[name] for name in text_fields if isinstance(value.get(name), str)), None)
    if text is not None:
        return _as_row(value, text, text_fields)
    if found := interleaved(value):
        return _as_row(found[1], found[0], text_fields)
    return None


def _as_row(value: dict[str, Any], text: str, text_fields: tuple[str, ...]) -> dict[str, Any]:
    rest = {key: one for key, one in value.items() if key not in text_fields and key not in jsonl.TEXT_FIELDS}
    return {**rest, "text": text}


def _record(raw: Raw, name: str, row: dict[str, Any], num_bytes: int) -> Raw:
    """A row as a document, or why it cannot be one."""
    try:
        document = documents.from_row(row, name)
        document.meta = with_media(plain(document.meta))
    except (ValueError, RecursionError) as error:
        return _refused(raw, name, str(error)[:200], num_bytes)
    document.path = document.path or raw.path
    return Raw(document.id, RECORD, num_bytes, path=raw.path, document=document)


def _refused(raw: Raw, name: str, reason: str, num_bytes: int = 0, excerpt: str = "") -> Raw:
    document = documents.Document(name, excerpt, path=raw.path)
    verdict = Verdict("read.bad_line", reason, "a JSON object with a text")
    return Raw(name, RECORD, num_bytes, path=raw.path, document=document, verdict=verdict)


def _parquet(raw: Raw, text_fields: tuple[str, ...], max_bytes: int) -> Iterator[Raw]:
    """The rows, group by group: a damaged group is a rejection, and those after it are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(raw.file)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if not {*text_fields, *LISTS} & set(schema.names):
                told = f"no column {' or '.join(text_fields)} (only {', '.join(schema.names)})"
                raise DataError(f"{path} has {told}", hint="name the column of texts with text_fields")
            documents.check_schema(path, schema.append(pa.field(jsonl.TEXT_FIELDS[0], pa.string())))
            first = 1
            for group in range(file.num_row_groups):
                for number, row in _rows(raw, file, group, first, max_bytes):
                    yield row if isinstance(row, Raw) else _row(raw, f"{raw.path}#{number}", row, text_fields)
                first += file.metadata.row_group(group).num_rows
            if first == 1:
                yield Raw(raw.id, RECORD, 0, path=raw.path, verdict=Verdict("read.empty", 0, 1))
    except (DataError, pa.ArrowException, OSError, ValueError) as error:
        yield _damaged(raw, f"{raw.path}#1", error)


def _rows(raw: Raw, file: Any, group: int, first: int, max_bytes: int) -> Iterator[tuple[int, dict[str, Any] | Raw]]:
    """Number and values of the rows of one group, the first of which is number `first` of its file; or what is wrong with one."""
    import pyarrow as pa

    place = first
    try:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group]):
            sizes = _sizes(batch)
            for row in range(batch.num_rows):
                name = f"{raw.path}#{place}"
                if sizes[row] > max_bytes:  # a cell becomes a string of Python only if it is not too large
                    verdict = Verdict("read.max_bytes", sizes[row], max_bytes)
                    yield place, Raw(name, RECORD, sizes[row], path=raw.path, verdict=verdict)
                else:
                    yield place, _values(raw, name, batch, row)
                place += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        yield place, _damaged(raw, f"{raw.path}#{place}", error)


def _values(raw: Raw, name: str, batch: Any, row: int) -> dict[str, Any] | Raw:
    """The cells of a row, or that one of them has no value in Python: no UTF-8, a time of no zone."""
    import pyarrow as pa

    try:
        (values,) = batch.slice(row, 1).to_pylist()
    except (pa.ArrowException, ValueError, LookupError, ArithmeticError) as error:
        return _damaged(raw, name, error)
    return dict(values)


def _row(raw: Raw, name: str, row: dict[str, Any], text_fields: tuple[str, ...]) -> Raw:
    """A row of a table as a document; a text may be bytes in UTF-8."""
    if not any(field in row for field in text_fields) and (found := interleaved(row)):
        row = {**found[1], text_fields[0]: found[0]}
    texts = [row[field] for field in text_fields if row.get(field) is not None]
    text = next((one for one in texts if isinstance(one, str | bytes)), None if texts else "")
    if text is None:
        return _refused(raw, name, f"no text in {' or '.join(text_fields)} but {type(texts[0]).__name__}")
    try:
        text = text if isinstance(text, str) else text.decode()
        told = {key: plain(value) for key, value in _as_row(row, "", text_fields).items()}
    except ValueError as error:
        return _damaged(raw, name, error)
    return _record(raw, name, {**told, "text": text}, len(text.encode("utf-8", "replace")))


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
