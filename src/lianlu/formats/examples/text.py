"""Plain text: a document, every token of which is learnt.

{"text": "..."}     documents as the clean stage and most corpora have them, in JSON or Parquet; `content` is taken too
book.txt, note.md   the whole file is one document
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lianlu.formats.documents import Document
from lianlu.formats.examples.record import RecordError, name_of, text_of
from lianlu.formats.jsonl import TEXT_FIELDS

NAME = "text"
SHAPE = '{"text": "..."}, or a .txt or .md file that is one document'


def matches(raw: Mapping[str, Any]) -> bool:
    """Whether the record has a field for text."""
    return any(key in raw for key in TEXT_FIELDS)


def convert(raw: Mapping[str, Any], name: str) -> Document:
    """The document. Raises: RecordError for one without text."""
    field = next((key for key in TEXT_FIELDS if key in raw), None)
    if field is None:
        raise RecordError(f"no {' or '.join(TEXT_FIELDS)}")
    text = text_of(raw[field], f"the {field}")
    if not text.strip():
        raise RecordError("an empty text")
    return Document(id=name_of(raw, name), text=text)
