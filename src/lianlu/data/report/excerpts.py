"""Beginnings of documents for the page: fetched by their place, clipped, and made safe to look at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lianlu.data.dedup.duplicates import Place
from lianlu.data.rules.edits import applied
from lianlu.data.scores.scored import Chunk
from lianlu.formats.documents import Document

ID_CHARS = 160
EXCERPT_CHARS = 280
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def shown(text: object, max_chars: int) -> str:
    """A text as it is shown: clipped, without characters that turn, hide or break what stands beside them."""
    whole = str(text)
    clipped = _UNSHOWN.sub("\ufffd", whole[:max_chars])
    return clipped + "\u2026" if len(whole) > max_chars else clipped


def documents_at(scored: Path, places: Iterable[Place]) -> Iterator[tuple[Place, Document]]:
    """The documents at these places, in order, with their edits made: a page that is passed on has no personal data in it."""
    rows: dict[int, set[int]] = {}
    for number, row in places:
        rows.setdefault(number, set()).add(row)
    for number in sorted(rows):
        chunk = Chunk(scored, number)
        for row, (document, edits) in enumerate(zip(chunk.documents(), chunk.edits(), strict=True)):
            if row in rows[number]:
                document.text = applied(document.text, edits)
                yield (number, row), document
