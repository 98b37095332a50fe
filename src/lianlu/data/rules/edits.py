"""What is taken out of a text or put in its place: spans of the normalised text, kept apart from it until it is written.

Spans of one document do not overlap and stand in order. A text that lost lines loses the runs of blank lines they leave.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LINE = "line"
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters `start` to `end` become `text`; `kind` is `line` or the kind of personal data, `rule` what asked for it."""

    start: int
    end: int
    text: str
    kind: str
    rule: str


def applied(text: str, edits: Sequence[Edit]) -> str:
    """The text with its edits made; the very same string if there are none."""
    if not edits:
        return text
    pieces: list[str] = []
    place = 0
    for edit in edits:
        pieces += [text[place : edit.start], edit.text]
        place = edit.end
    made = "".join([*pieces, text[place:]])
    return _BLANK_LINES.sub("\n\n", made).strip("\n") if any(edit.kind == LINE for edit in edits) else made


def joined(first: Sequence[Edit], then: Sequence[Edit]) -> list[Edit]:
    """Both in order, without those of `then` that touch one of `first`."""
    starts = [edit.start for edit in first]

    def is_free(edit: Edit) -> bool:
        before = bisect_left(starts, edit.end) - 1
        return before < 0 or first[before].end <= edit.start

    return sorted([*first, *filter(is_free, then)], key=lambda edit: edit.start)


def counts(edits: Sequence[Edit]) -> dict[str, int]:
    """How many there are of each kind of personal data."""
    return dict(sorted(Counter(edit.kind for edit in edits if edit.kind != LINE).items()))
