"""RefinedWeb's rules for lines (Penedo et al. 2023, arXiv 2306.01116, appendix G.2), with the bounds that DCLM uses.

Lines of capitals, of numbers alone, counters ("12 likes", "阅读 1234") and lines of one word are what is left of menus and
buttons: they are taken out, and a page that loses more than 5 % of its words that way is dropped. In texts of CJK script a
character is a word, so that "one word" becomes a few characters (`[refinedweb.cjk]`). A short line with an end mark is spared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from lianlu.data.rules.characters import Kind, Mask
from lianlu.data.rules.edits import LINE, Edit
from lianlu.data.rules.textview import TextView, split_words
from lianlu.data.rules.thresholds import Limits, broken

LINE_KEYS = ("max_uppercase_letters", "max_numeric_lines", "max_counter_lines", "min_words_per_line")
END_MARKS = (".", "!", "?", "。", "！", "？", "…", "：", "；", "”", "」")
_COUNTED = (
    "likes?|shares?|comments?|repl(?:y|ies)|views?|followers?|following|tweets?|retweets?|posts?|votes?|points?|reads?|downloads?|"
    "subscribers?|members?|reviews?|ratings?|hits|stars?|forks?"
)
_COUNTED_ZH = "阅读|浏览|点赞|赞|评论|回复|转发|分享|收藏|关注|粉丝|播放|下载|点击|人气|热度"
_COUNTER = re.compile(
    rf"\W*(?:\d[\d,.]*\s?[km万亿]?\+?\s*(?:{_COUNTED})|(?:{_COUNTED})\s*[:(]?\s*\d[\d,.]*\s?[km]?\)?"
    rf"|\d[\d,.]*\s?[万亿kw]?\+?\s*[次人个条]?\s*(?:{_COUNTED_ZH})|(?:{_COUNTED_ZH})[量数]?\s*[:：(（]?\s*\d[\d,.]*\s?[万亿kw]?\s*[次人个条]?[)）]?)\W*",
    re.IGNORECASE,
)
_COUNTER_LETTERS = 16
"""No counter has more ("subscribers" has 11)."""
_NOT_NUMERIC = re.compile(r"[^\W\d_]").search
_DIGIT = re.compile(r"\d").search


def line_edits(view: TextView, limits: Limits) -> list[Edit]:
    """The lines that break a rule for lines, each with its line break, to be taken out."""
    needed = {key: limits[key] for key in LINE_KEYS if limits.get(key, False) is not False}
    if not needed:
        return []
    edits = []
    for start, end, line in view.spans_of_lines(_suspects(view, needed)):
        if verdict := broken("refinedweb", needed, _line_signals(line.strip())):
            edits.append(Edit(start, end, "", LINE, verdict.rule))
    return edits


def _suspects(view: TextView, needed: Limits) -> Mask:
    """The lines that may break one of these rules: most have a few words, few capitals and no digit."""
    of, count = view.characters, view.words_per_line
    suspect: Mask = count < needed.get("min_words_per_line", 0)
    if "max_uppercase_letters" in needed:
        share = of.per_line(of.has(Kind.UPPER)) / np.maximum(of.per_line(of.has(Kind.ALPHABETIC)), 1)
        suspect |= share > needed["max_uppercase_letters"]
    if needed.keys() & {"max_numeric_lines", "max_counter_lines"}:
        suspect |= (of.per_line(of.has(Kind.DIGIT)) > 0) & (of.per_line(of.has(Kind.LETTER)) <= _COUNTER_LETTERS)
    return suspect & (count > 0)


def _line_signals(line: str) -> Iterator[tuple[str, float]]:
    upper = sum(map(str.isupper, line)) if not line.islower() else 0
    yield "max_uppercase_letters", upper / max(sum(map(str.isalpha, line)), 1) if upper else 0.0
    has_digit = _DIGIT(line) is not None
    yield "max_numeric_lines", has_digit and _NOT_NUMERIC(line) is None
    yield "max_counter_lines", has_digit and _COUNTER.fullmatch(line) is not None
    if not line.endswith(END_MARKS):
        yield "min_words_per_line", len(split_words(line))


def signals(view: TextView, taken: Sequence[Edit]) -> Iterator[tuple[str, float]]:
    """The rule for pages: the share of words in the lines that `line_edits` takes out."""
    words = sum(len(split_words(view.text[edit.start : edit.end])) for edit in taken)
    yield "max_removed_words", words / max(len(view.word_starts), 1)
