"""Rules for source code (DeepSeek-Coder, Guo et al. 2024, arXiv 2401.14196, section 2.1), and for what no person wrote.

Prose rules say nothing about code; these look at line lengths, letters, data files and the marks that generators leave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lianlu.data.textview import TextView
from lianlu.data.thresholds import Limits, Verdict, broken

_LETTERS = re.compile(r"[^\W\d_]+")
_HEAD_LINES = 8


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first of these rules that the text breaks, or None."""
    return broken("code", limits, signals(view, limits))


def signals(view: TextView, limits: Limits) -> Iterator[tuple[str, float]]:
    """What the rules look at, in order; lengths in characters, blank lines not counted."""
    text = view.text
    yield "min_chars", len(text)
    yield "max_chars", len(text)
    raw = text.split("\n")
    yield "min_lines", len(view.lines)
    yield "max_lines", len(view.lines)
    yield "max_mean_line_length", sum(map(len, raw)) / max(len(view.lines), 1)
    yield "max_line_length", max(map(len, raw))
    yield "min_alpha_chars", sum(map(len, _LETTERS.findall(text))) / max(len(text), 1)
    yield "max_xml_declarations", "<?xml version=" in text[:100] and "<xsl:stylesheet" not in text[:1000]
    head = "\n".join(view.lines[:_HEAD_LINES]).lower()
    yield "max_generated_marks", sum(mark in head for mark in limits.get("generated_marks", ()))
