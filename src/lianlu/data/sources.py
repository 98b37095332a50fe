"""Where documents come from: a folder, a file, or `python`; found and listed here, read later by the workers.

Files are listed in sorted order. Hidden files and folders are left out; a link to a folder is not followed (so there are
no loops) and noted as rejected, like everything else that cannot be read. JSONL and Parquet are streamed record by record.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.thresholds import Verdict
from lianlu.formats import documents, jsonl

HTML, MARKDOWN, TEXT, CODE, RECORD, MODULE, METADATA = "html", "markdown", "text", "code", "record", "module", "metadata"
KINDS = {".html": HTML, ".htm": HTML, ".xhtml": HTML, ".md": MARKDOWN, ".markdown": MARKDOWN, ".rst": MARKDOWN, ".txt": TEXT}
LANGUAGES = {
    ".py": "python", ".pyi": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".hpp": "cpp", ".cs": "csharp",
    ".go": "go", ".java": "java", ".js": "javascript", ".mjs": "javascript", ".jsx": "javascript", ".ts": "typescript",
    ".tsx": "typescript", ".rs": "rust", ".rb": "ruby", ".php": "php", ".sh": "shell", ".bash": "shell", ".sql": "sql",
    ".kt": "kotlin", ".swift": "swift", ".scala": "scala", ".lua": "lua", ".pl": "perl", ".r": "r", ".jl": "julia",
    ".css": "css", ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".xml": "xml", ".ini": "ini",
}  # fmt: skip
DOMAINS = {HTML: "web", MARKDOWN: "docs", TEXT: "text", CODE: "code", RECORD: "web", MODULE: "code", METADATA: "docs"}


@dataclass(slots=True)
class Raw:
    """One thing to read. `file` is read by a worker; a record brings its document along; a verdict says it is hopeless."""

    id: str
    kind: str
    num_bytes: int
    path: str = ""
    file: str = ""
    lang: str = ""
    license: str = ""
    document: documents.Document | None = None
    verdict: Verdict | None = None


@dataclass
class Listing:
    """What a source holds: what is read file by file, and the files that hold many records."""

    raws: list[Raw] = field(default_factory=list)
    num_bytes: int = 0


def list_files(source: Path) -> Listing:
    """Everything below a folder, or one file. Raises: DataError if there is nothing."""
    if not source.exists():
        raise DataError(f"there is no {source}", hint="check the path of source; `python` stands for Python's own sources")
    listing = Listing([_file(source, source.name)] if source.is_file() else list(_walk(source)))
    if not listing.raws:
        raise DataError(f"{source} is an empty folder", hint="put text, Markdown, HTML, JSONL or Parquet files there")
    listing.num_bytes = sum(raw.num_bytes for raw in listing.raws)
    return listing


def _walk(root: Path) -> Iterator[Raw]:
    unreadable: list[OSError] = []
    for folder, names, files in os.walk(root, onerror=unreadable.append):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in names:
            if (path := Path(folder, name)).is_symlink():
                yield _rejected(path, root, Verdict("read.link_to_folder", "link", "a real folder"))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(folder, name)
                yield _file(path, path.relative_to(root).as_posix())
        while unreadable:
            error = unreadable.pop()
            yield _rejected(Path(error.filename), root, Verdict("read.unreadable", error.strerror or "", "a readable folder"))


def _rejected(path: Path, root: Path, verdict: Verdict) -> Raw:
    name = path.relative_to(root).as_posix()
    return Raw(name, TEXT, 0, path=name, verdict=verdict)


def _file(path: Path, name: str) -> Raw:
    name = name.encode("utf-8", "replace").decode()
    try:
        status = path.stat()
    except OSError as error:
        return Raw(name, TEXT, 0, path=name, verdict=Verdict("read.unreadable", error.strerror or "", "a readable file"))
    if not stat.S_ISREG(status.st_mode):
        return Raw(
            name, TEXT, 0, path=name, verdict=Verdict("read.not_a_file", stat.filemode(status.st_mode)[0], "a regular file")
        )
    suffix = path.suffix.lower()
    if jsonl.is_jsonl(path) or suffix == ".parquet":
        return Raw(name, RECORD, status.st_size, path=name, file=str(path))
    kind = CODE if suffix in LANGUAGES else KINDS.get(suffix, TEXT)
    return Raw(name, kind, status.st_size, path=name, file=str(path), lang=language_of(name))


def language_of(path: str) -> str:
    """The programming language that a file's name tells, or empty."""
    return LANGUAGES.get(os.path.splitext(path)[1].lower(), "")


def expand(raws: list[Raw], text_fields: tuple[str, ...], max_line_bytes: int) -> Iterator[Raw]:
    """The same things with each file of records replaced by its records, one by one."""
    for raw in raws:
        if raw.kind != RECORD or raw.verdict is not None:
            yield raw
        elif raw.file.endswith(".parquet"):
            yield from _parquet_records(raw)
        else:
            yield from _jsonl_records(raw, text_fields, max_line_bytes)


def _jsonl_records(raw: Raw, text_fields: tuple[str, ...], max_line_bytes: int) -> Iterator[Raw]:
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


def _parquet_records(raw: Raw) -> Iterator[Raw]:
    count = 0
    try:
        for document in documents.read_parquet(Path(raw.file)):
            count += 1
            yield _record(raw, document, len(document.text.encode("utf-8", "replace")))
    except DataError as error:
        name = f"{raw.path}#{count + 1}"
        yield Raw(
            name,
            RECORD,
            0,
            path=raw.path,
            verdict=Verdict("read.damaged", error.message.replace(raw.file, raw.path), "a whole file"),
        )


def _record(raw: Raw, document: documents.Document, num_bytes: int) -> Raw:
    document.path = document.path or raw.path
    return Raw(document.id, RECORD, num_bytes, path=raw.path, document=document)
