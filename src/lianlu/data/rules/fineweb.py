"""FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6): lists, menus and broken lines are no prose."""

from __future__ import annotations

from collections.abc import Iterator

from lianlu.data.rules.gopher_repetition import duplicate_shares
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Verdict, broken

END_MARKS = (".", "?", "!", "\u3002", "\uff01", "\uff1f", "\u2026", '"', "'", "\u201d", "\u300d", ":", "\uff1a", ";", "\uff1b")


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first of these rules that the text breaks, or None."""
    return broken("fineweb", limits, signals(view, limits))


def signals(view: TextView, limits: Limits) -> Iterator[tuple[str, float]]:
    """What the rules look at, in order: shares of lines or characters, lines per word."""
    lines = view.lines
    count = max(len(lines), 1)
    yield "min_lines_with_end_mark", sum(line.endswith(END_MARKS) for line in lines) / count
    longest = limits["short_line_chars"]
    yield "max_short_lines", sum(len(line) <= longest for line in lines) / count
    yield "max_duplicate_line_chars", duplicate_shares(lines)[1]
    yield "max_lines_per_word", len(lines) / max(len(view.word_starts), 1)
