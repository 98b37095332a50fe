"""Documents on disk: Parquet (Zstandard) as stages exchange them, JSONL as people bring them; both read and written.

A folder of documents holds `part-00000.parquet`, `part-00001.parquet`, ...; the Parquet schema carries the format version.
Reading is strict: a damaged file or line raises DataError. The clean stage reads JSONL leniently by `formats.jsonl` itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write
from lianlu.formats import jsonl

FORMAT = 1
FIRST_PART = "part-00000.parquet"
ROWS_PER_PART = 20_000
ROWS_PER_GROUP = 1000
CHARS_PER_GROUP, CHARS_PER_PART = 16_000_000, 512_000_000
"""Where long documents end a row group or a part before it has its rows."""
ZSTD_LEVEL = 6


@dataclass(slots=True)
class Document:
    """A text and where it comes from.

    `source` names the collection, `domain` the sort of text (web, docs, code, book, ...), `lang` an ISO 639-1 code or the
    programming language, `path` a path relative to the source; `meta` holds any JSON values.
    """

    id: str
    text: str
    source: str = ""
    domain: str = "web"
    lang: str = ""
    url: str = ""
    license: str = ""
    date: str = ""
    path: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


COLUMNS = tuple(item.name for item in fields(Document))
_STRINGS = COLUMNS[:-1]


def write_documents(folder: Path, documents: Iterable[Document], rows_per_part: int = ROWS_PER_PART) -> int:
    """Write `part-NNNNN.parquet` files into `folder`; returns the number of documents. Equal input gives equal bytes.

    A part has `rows_per_part` documents, or fewer if they are long; no more than a row group of them is in memory.
    """
    count = 0
    stream = iter(documents)
    ahead = next(stream, None)
    for part in itertools.count():
        with _table_writer(folder / f"part-{part:05d}.parquet") as write:
            rows = chars = 0
            while ahead is not None and rows < rows_per_part and chars < CHARS_PER_PART:
                group, ahead = _group(ahead, stream, min(rows_per_part - rows, ROWS_PER_GROUP))
                write(group)
                rows += len(group)
                chars += sum(len(row.text) for row in group)
        count += rows
        if ahead is None:
            return count
    return count


def _group(first: Document, rest: Iterator[Document], most: int) -> tuple[list[Document], Document | None]:
    """Documents for one row group, and the one after them."""
    group, chars = [first], len(first.text)
    for document in rest:
        if len(group) == most or chars >= CHARS_PER_GROUP:
            return group, document
        group.append(document)
        chars += len(document.text)
    return group, None


def write_parquet(path: Path, documents: Sequence[Document]) -> None:
    """Write documents into one Parquet file."""
    stream = iter(documents)
    ahead = next(stream, None)
    with _table_writer(path) as write:
        while ahead is not None:
            group, ahead = _group(ahead, stream, ROWS_PER_GROUP)
            write(group)


@contextlib.contextmanager
def _table_writer(path: Path) -> Iterator[Callable[[Sequence[Document]], None]]:
    """Something that writes a row group into a new file; without any the file has no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.large_string()) for name in COLUMNS], metadata={"lianlu": "documents", "format": str(FORMAT)})

    def write(documents: Sequence[Document]) -> None:
        columns: dict[str, Any] = {name: [getattr(row, name) for row in documents] for name in _STRINGS}
        columns["meta"] = [json.dumps(row.meta, ensure_ascii=False, sort_keys=True) for row in documents]
        table.write_table(pa.table(columns, schema=schema), row_group_size=len(documents))

    with (
        atomic_write(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", compression_level=ZSTD_LEVEL) as table,
    ):
        yield write


def write_jsonl(path: Path, documents: Iterable[Document]) -> int:
    """Write documents as JSONL (`.jsonl`, `.jsonl.gz`, `.jsonl.zst`) with a header line; returns how many."""
    header: dict[str, Any] = {"lianlu": "documents", "format": FORMAT}
    rows = ({key: value for key, value in asdict(row).items() if value or key in ("id", "text")} for row in documents)
    return jsonl.write_values(path, itertools.chain([header], rows)) - 1


def document_files(path: Path) -> list[Path]:
    """The files of documents at `path` (itself, or those in the folder), sorted. Raises: DataError if there are none."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise DataError(f"there is no {path}", hint="check the path")
    found = sorted(item for item in path.iterdir() if is_document_file(item))
    if not found:
        raise DataError(f"{path} holds no documents", hint="expected .parquet or .jsonl files (also .gz, .zst)")
    return found


def is_document_file(path: Path) -> bool:
    """Whether the name is that of a file of documents; ledgers such as rejected.jsonl are not."""
    hidden = path.name.startswith((".", "rejected."))
    return not hidden and path.is_file() and (path.suffix == ".parquet" or jsonl.is_jsonl(path))


def read_documents(path: Path) -> Iterator[Document]:
    """Read documents from a folder, a `.parquet` or a `.jsonl[.gz|.zst]` file, in order.

    Raises: DataError that names the file when it is missing, damaged, or of a future format.
    """
    for file in document_files(path):
        yield from read_parquet(file) if file.suffix == ".parquet" else _read_jsonl(file)


def read_parquet(path: Path) -> Iterator[Document]:
    """Read the documents of one Parquet file; foreign files need a string column `text` or `content`. Raises: DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            check_schema(path, file.schema_arrow)
            start = 1
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
                names = batch.schema.names
                for number, row in enumerate(zip(*batch.to_pydict().values(), strict=True), start):
                    yield from_row(dict(zip(names, row, strict=True)), f"{path.name}#{number}")
                start += batch.num_rows
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", hint="check the path") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} is not a whole Parquet file: {reason}", hint="it may be truncated: copy or make it again"
        ) from error


def check_schema(path: Path, schema: Any) -> None:
    """See to it that a Parquet file holds documents that can be read. Raises: DataError that says why not."""
    stamp = schema.metadata or {}
    kind = stamp.get(b"lianlu", b"documents").decode("utf-8", "replace")
    if kind != "documents":
        raise DataError(f"{path} holds {kind}, not documents", hint="point to a file of documents")
    with contextlib.suppress(ValueError):
        if int(stamp.get(b"format", b"1")) > FORMAT:
            found = stamp[b"format"].decode()
            raise DataError(f"{path} has format {found}, this lianlu reads up to {FORMAT}", hint="upgrade lianlu")
    if not set(jsonl.TEXT_FIELDS) & set(schema.names):
        raise DataError(f"{path} has no column text (only {', '.join(schema.names)})", hint="rename the column of texts to text")


def _read_jsonl(path: Path) -> Iterator[Document]:
    for line, value in jsonl.read_values(path):
        if not any(isinstance(value.get(name), str) for name in jsonl.TEXT_FIELDS):
            raise DataError(f"{path}, line {line}: no text", hint="each line needs a field text or content")
        yield from_row(value, f"{path.name}#{line}")


def from_row(row: dict[str, Any], fallback_id: str) -> Document:
    """A document from a table row or JSON object; fields we do not know go into `meta`, nulls become empty."""
    document = Document(id=_string(row.get("id")) or fallback_id, text="", meta=_meta(row))
    for name in _STRINGS[2:]:
        if row.get(name) is not None:
            setattr(document, name, _string(row[name]))
    document.text = next((row[name] for name in jsonl.TEXT_FIELDS if isinstance(row.get(name), str)), "")
    return document


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    raw = row.get("meta")
    if isinstance(raw, str):
        with contextlib.suppress(ValueError):
            raw = json.loads(raw)
    meta = dict(raw) if isinstance(raw, dict) else ({} if raw in (None, "") else {"meta": raw})
    extra = {
        key: value for key, value in row.items() if key not in COLUMNS and key not in jsonl.TEXT_FIELDS and value is not None
    }
    return {**extra, **meta}


def _string(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
