"""From raw bytes to documents: encodings, HTML, Markdown, source code, package metadata; runs in the workers.

Text is UTF-8, or UTF-16 with a byte order mark; Python sources may name their own encoding (PEP 263). What cannot be
read gives a verdict with a reason, never an exception.
"""

from __future__ import annotations

import codecs
import io
import tokenize
from pathlib import Path

from lianlu.data import sources
from lianlu.data.html_extractor import HtmlExtractor
from lianlu.data.python_source import module_documents, package_document
from lianlu.data.sources import Raw
from lianlu.data.thresholds import Verdict
from lianlu.formats.documents import Document

_SNIFFED_BYTES = 8192
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(raw: Raw, max_bytes: int) -> bytes | str | Verdict:
    """The content of a file or record: bytes of a page, else text; or why it cannot be had."""
    if raw.verdict is not None:
        return raw.verdict
    if raw.num_bytes > max_bytes:
        return Verdict("read.max_bytes", raw.num_bytes, max_bytes)
    if raw.document is not None:
        return raw.document.text if raw.document.text.strip() else Verdict("read.empty", 0, 1)
    try:
        content = Path(raw.file).read_bytes()
    except OSError as error:
        return Verdict("read.unreadable", error.strerror or "", "a readable file")
    if not content.strip():
        return Verdict("read.empty", 0, 1)
    if raw.kind == sources.HTML:
        return content
    return _decode(content, raw.lang)


def _decode(content: bytes, lang: str) -> str | Verdict:
    encoding = "utf-8-sig"
    if content.startswith(_UTF16_MARKS):
        encoding = "utf-16"
    elif b"\0" in content[:_SNIFFED_BYTES]:
        return Verdict("read.binary", content.index(b"\0"), "no zero byte")
    elif lang == "python":
        encoding = _declared(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        return Verdict("read.encoding", f"byte {error.start}", encoding.removesuffix("-sig"))


def _declared(content: bytes) -> str:
    """The encoding a Python source declares; UTF-8 if it declares nonsense."""
    try:
        return tokenize.detect_encoding(io.BytesIO(content).readline)[0]
    except SyntaxError:
        return "utf-8-sig"


def documents(raw: Raw, content: bytes | str, pages: HtmlExtractor) -> list[Document] | Verdict:
    """The documents in a file or record, with where they come from; or why there are none."""
    if isinstance(content, bytes):
        text = pages.extract(content)
        return text if isinstance(text, Verdict) else [_document(raw, text)]
    if raw.kind == sources.MODULE:
        return list(module_documents(raw, content))
    if raw.kind == sources.METADATA:
        document = package_document(raw, content)
        return [document] if document.text.strip() else Verdict("extract.no_description", 0, 1)
    return [raw.document] if raw.document is not None else [_document(raw, content)]


def _document(raw: Raw, text: str) -> Document:
    return Document(raw.id, text, domain=sources.DOMAINS[raw.kind], lang=raw.lang, license=raw.license, path=raw.path)
