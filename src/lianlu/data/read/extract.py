"""From raw bytes to documents: encodings, HTML, PDF, Markdown, source code, notebooks, package metadata; runs in the workers.

What cannot be read gives a verdict with a reason, never an exception.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lianlu.data.code.notebook import to_markdown
from lianlu.data.code.source_file import path_of
from lianlu.data.read import front_matter, html_head, pdf, sources
from lianlu.data.read.encodings import decoded
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.http_body import in_utf8
from lianlu.data.read.media import marked
from lianlu.data.read.python_source import module_documents, package_document
from lianlu.data.read.sources import Raw
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats.documents import Document

NOTEBOOK = "jupyter"
LFS_POINTER, LFS_BYTES = b"version https://git-lfs.github.com/spec/", 1024
"""How the few lines begin that stand for a large file which was not fetched."""


def read(raw: Raw, max_bytes: int) -> bytes | str | Verdict:
    """The content of a file or record: bytes of a page, else text; or why it cannot be had."""
    if raw.verdict is not None:
        return raw.verdict
    if raw.num_bytes > max_bytes:
        return Verdict("read.max_bytes", raw.num_bytes, max_bytes)
    if raw.document is not None and raw.kind == sources.RECORD:
        return raw.document.text if raw.document.text.strip() else Verdict("read.empty", 0, 1)
    try:
        content = Path(raw.file).read_bytes() if raw.content is None else raw.content
    except OSError as error:
        return Verdict("read.unreadable", error.strerror or "", "a readable file")
    if not content.strip():
        return Verdict("read.empty", 0, 1)
    if content.startswith(LFS_POINTER) and len(content) < LFS_BYTES:
        return Verdict("read.lfs_pointer", len(content), "the file it stands for: git lfs pull")
    if raw.kind in (sources.HTML, sources.PDF):
        return content
    return decoded(content, raw.lang)


def documents(raw: Raw, content: bytes | str, pages: HtmlExtractor) -> list[Document] | Verdict:
    """The documents in a file or record, with where they come from; or why there are none."""
    if isinstance(content, bytes):
        found = pdf.document(content, _document(raw, "")) if raw.kind == sources.PDF else _page(raw, content, pages)
        return found if isinstance(found, Verdict) else [found]
    if raw.kind == sources.MODULE:
        return list(module_documents(raw, content))
    if raw.kind == sources.METADATA:
        document = package_document(raw, content)
        return [document] if document.text.strip() else Verdict("extract.no_description", 0, 1)
    if raw.kind == sources.RECORD and raw.document is not None:
        return [_record(raw.document)]
    if raw.lang == NOTEBOOK:
        cells = to_markdown(content)
        return [_document(raw, cells)] if cells is not None else Verdict("extract.no_cells", 0, 1)
    return [_written(raw, content)]


def _record(document: Document) -> Document:
    """A record as it is, but for a notebook's JSON."""
    is_notebook = sources.language_of(path_of(document)) == NOTEBOOK or document.lang.lower().startswith(NOTEBOOK)
    cells = to_markdown(document.text) if is_notebook else None
    return document if cells is None else replace(document, text=cells, lang=NOTEBOOK)


def _page(raw: Raw, content: bytes, pages: HtmlExtractor) -> Document | Verdict:
    content = in_utf8(content, html_head.charset(content))
    text = pages.extract(content)
    if isinstance(text, Verdict):
        return text
    document = _document(raw, text)
    html_head.tell(document, content)
    return document


def _written(raw: Raw, text: str) -> Document:
    """A text file: what stands before a text and tells about it goes to where documents keep that, and so do pictures."""
    if raw.kind == sources.CODE:
        return _document(raw, text)
    told, body = front_matter.split(text.replace("\r\n", "\n"))
    text = body if told else text
    document = _document(raw, text)
    front_matter.tell(document, told)
    if raw.kind == sources.MARKDOWN and (media := marked(text)):
        document.meta = {**document.meta, "media": media}
    return document


def _document(raw: Raw, text: str) -> Document:
    """A document of what is known about where it comes from."""
    known = raw.document or Document(raw.id, "", domain=sources.DOMAINS[raw.kind], license=raw.license, path=raw.path)
    return replace(known, text=text, lang=raw.lang)
