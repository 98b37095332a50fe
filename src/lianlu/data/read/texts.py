"""The texts of a small source, read in this process: what filters and counts are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lianlu.data.read import extract, sources
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.normalise import normalise
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats import jsonl

MAX_DOCUMENT_BYTES = 50_000_000
HTML_LIMIT_S = 5.0


def texts_in(source: Path) -> Iterator[str | None]:
    """The normalised text of each document of a file or below a folder; None for what cannot be read. Raises: DataError."""
    pages = HtmlExtractor(HTML_LIMIT_S)
    try:
        for raw in sources.expand(sources.list_files(source).raws, jsonl.TEXT_FIELDS, MAX_DOCUMENT_BYTES):
            content = extract.read(raw, MAX_DOCUMENT_BYTES)
            documents = content if isinstance(content, Verdict) else extract.documents(raw, content, pages)
            if isinstance(documents, Verdict):
                yield None
            else:
                yield from (normalise(document.text) for document in documents)
    finally:
        pages.close()
