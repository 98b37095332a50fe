"""Gopher's quality rules (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1): is this text made of words and sentences?"""

from __future__ import annotations

from collections.abc import Iterator

from lianlu.data.rules.characters import Kind, sums
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Verdict, broken

_BULLETS = ("- ", "* ", "+ ", "\u2022", "\u2023", "\u25cf", "\u25e6", "\u25aa", "\u2043", "\u00b7")
_ELLIPSES = ("...", "\u2026")
_EDGES = ".,;:!?()[]{}<>\"'`*_"


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first of these rules that the text breaks, or None."""
    return broken("gopher_quality", limits, signals(view, limits))


def signals(view: TextView, limits: Limits) -> Iterator[tuple[str, float]]:
    """What the rules look at, in order; ratios are per word or per line."""
    count = len(view.word_starts)
    yield "min_words", count
    yield "max_words", count
    mean = view.num_word_chars / max(count, 1)
    yield "min_mean_word_length", mean
    yield "max_mean_word_length", mean
    yield "max_hash_ratio", view.text.count("#") / max(count, 1)
    yield "max_ellipsis_ratio", sum(map(view.text.count, _ELLIPSES)) / max(count, 1)
    num_lines = max(len(view.lines), 1)
    yield "max_bullet_lines", sum(line.startswith(_BULLETS) for line in view.lines) / num_lines
    yield "max_ellipsis_lines", sum(line.endswith(_ELLIPSES) for line in view.lines) / num_lines
    yield "min_alpha_words", _num_alpha_words(view) / max(count, 1)
    if limits.get("stop_words"):
        yield "min_stop_words", _num_stop_words(view, limits["stop_words"])


def _num_alpha_words(view: TextView) -> int:
    """How many words have a letter."""
    return int((sums(view.characters.has(Kind.LETTER), view.word_starts) > 0).sum())


def _num_stop_words(view: TextView, stop_words: list[str]) -> int:
    """How many of the list occur (once is enough)."""
    present = {word.lower() for word in set(view.words)}
    missing = [word for word in stop_words if word not in present]
    if len(stop_words) - len(missing) < 2:
        present |= {word.strip(_EDGES) for word in present}
    return sum(word in present for word in stop_words)
