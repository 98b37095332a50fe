"""Cutting an answer out of a reply: every rule has a name and gives the place where it found something.

Scorers are honest only if one can see which rule spoke. `cut` repeats what stop strings do, for servers that ignore them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from lianlu.formats.eval_log import Extracted

NOT_FOUND = Extracted(rule="none")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?|-?\.\d+")
ANSWER_IS = re.compile(
    r"(?i)\b(?:answer|result|total|sum)\b(?:\s+is|\s+equals|\s*[:=])\s*(?:\*\*|\$)*\s*(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)"
)


def by_regex(text: str, pattern: re.Pattern[str], rule: str, select: int = 0) -> Extracted:
    """The match number `select` of `pattern` (-1: the last): its first non-empty group, or all of it; ends are stripped."""
    matches = list(pattern.finditer(text))
    if not matches:
        return NOT_FOUND
    match = matches[select]
    group = next((number for number, found in enumerate(match.groups(), 1) if found), 0)
    start, end = match.span(group)
    inner = text[start:end]
    left = start + len(inner) - len(inner.lstrip())
    stripped = inner.strip()
    return Extracted(rule=rule, text=stripped, start=left, end=left + len(stripped))


def number(text: str) -> Extracted:
    """The number a reply settles on: the last after "answer is" and the like, else the last number of all."""
    found = by_regex(text, ANSWER_IS, "answer is", select=-1)
    return found if found.found else by_regex(text, NUMBER, "last number", select=-1)


def same_number(text: str, target: str) -> bool:
    """Whether two texts are the same number exactly: 1,234 = 1234.0, 1/2 = 0.5."""
    one, two = _fraction(text), _fraction(target)
    return one is not None and one == two


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "").strip())
    except (ValueError, ZeroDivisionError):
        return None


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` before the first of the stop strings."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
