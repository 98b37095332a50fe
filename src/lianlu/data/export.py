"""Documents out of lianlu, into the formats others read: WanJuan's JSONL, plain JSONL, or one Parquet file.

    wanjuan   {id, content} and, where a document has pictures, img_list (https://github.com/opendatalab/WanJuan1.0)
    jsonl     {id, text, ...} with every field that is not empty, `meta` as an object
    parquet   the columns of lianlu's documents, which `read_documents` and any Parquet reader take

Documents are streamed, so that memory does not grow with them; a file appears whole or not at all. JSONL is packed as its name
says (.jsonl, .jsonl.gz, .jsonl.zst), and equal documents give equal bytes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lianlu.core.errors import ConfigError
from lianlu.core.files import atomic_write
from lianlu.data.read.media import img_list
from lianlu.formats import jsonl
from lianlu.formats.documents import COLUMNS, FORMAT, ROWS_PER_GROUP, ZSTD_LEVEL, Document, read_documents

Format = Literal["wanjuan", "jsonl", "parquet"]


def export(source: Path, target: Path, form: Format) -> int:
    """Write the documents of a folder or file as `target`; returns how many.

    Raises: ConfigError if the target's name does not fit the format, DataError if documents cannot be read.
    """
    if not (target.suffix == ".parquet" if form == "parquet" else jsonl.is_jsonl(target)):
        fitting = ".parquet" if form == "parquet" else ", ".join(jsonl.SUFFIXES[:3])
        raise ConfigError(f"{target.name} is no name for {form}", hint=f"let it end in {fitting}")
    return WRITERS[form](target, read_documents(source))


def write_wanjuan(path: Path, documents: Iterable[Document]) -> int:
    """Write WanJuan's format; address, date and licence have no place in it and are left out."""
    return jsonl.write_values(path, map(_wanjuan, documents))


def _wanjuan(document: Document) -> dict[str, Any]:
    images = img_list(document.meta)
    return {"id": document.id, **({"img_list": images} if images else {}), "content": document.text}


def write_jsonl(path: Path, documents: Iterable[Document]) -> int:
    """Write JSONL without a header line, as other tools expect it."""
    rows = ({key: value for key, value in asdict(row).items() if value or key in ("id", "text")} for row in documents)
    return jsonl.write_values(path, rows)


def write_parquet(path: Path, documents: Iterable[Document]) -> int:
    """Write one Parquet file, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.large_string()) for name in COLUMNS], metadata={"lianlu": "documents", "format": str(FORMAT)})
    count = 0
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, compression="zstd", compression_level=ZSTD_LEVEL) as writer:
        for rows in _batches(documents):
            columns: dict[str, list[str]] = {name: [getattr(row, name) for row in rows] for name in COLUMNS[:-1]}
            columns["meta"] = [json.dumps(row.meta, ensure_ascii=False, sort_keys=True) for row in rows]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(rows)
    return count


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    stream = iter(documents)
    while rows := list(itertools.islice(stream, ROWS_PER_GROUP)):
        yield rows


WRITERS: dict[Format, Callable[[Path, Iterable[Document]], int]] = {
    "wanjuan": write_wanjuan, "jsonl": write_jsonl, "parquet": write_parquet,
}  # fmt: skip
