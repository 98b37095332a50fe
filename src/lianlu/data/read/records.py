"""Records out of JSONL (plain, gzip, Zstandard) and Parquet files, one by one; WanJuan's format is JSONL like any other.

A bad line, and where a truncated file breaks off, is a rejection with its number; what came before it is kept. A line
above the limit is never held whole, so that a file which unpacks to any size needs no memory.
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


def read(raw: Raw, text_fields: tuple[str, ...], max_bytes: int) -> Iterator[Raw]:
    """The records of one file, in order."""
    if raw.file.lower().endswith(".parquet"):
        yield from _parquet(raw)
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


def _parquet(raw: Raw) -> Iterator[Raw]:
    count = 0
    try:
        for document in documents.read_parquet(Path(raw.file)):
            count += 1
            yield _record(raw, document, len(document.text.encode("utf-8", "replace")))
    except DataError as error:
        verdict = Verdict("read.damaged", error.message.replace(raw.file, raw.path), "a whole file")
        yield Raw(f"{raw.path}#{count + 1}", RECORD, 0, path=raw.path, verdict=verdict)


def _record(raw: Raw, document: documents.Document, num_bytes: int) -> Raw:
    document.path = document.path or raw.path
    document.meta = with_media(document.meta)
    return Raw(document.id, RECORD, num_bytes, path=raw.path, document=document)
