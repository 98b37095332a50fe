"""How a text is punctuated: one of InternLM2's families of rules (arXiv 2403.17297, section 3.1.1), which are not published.

Marks per 100 words (a CJK character is a word), marks in runs ("！！！！", "?????"), half-width marks between CJK characters, and
the lengths of sentences. Lists of key words and text of lost marks have too few marks and endless sentences; advertisements
have runs; menus have the shortest sentences. Lengths are in words, counted by white space; in characters for CJK script.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator

from lianlu.data.rules.characters import CJK
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Verdict, broken

# patterns begin with a set of marks and look behind it afterwards: the search then skips to such marks at once
_MARKS = re.compile("[,.;:!?，。、；：？！…—“”‘’（）《》「」『』](?:(?<![,.;:!?])|(?=\\s|$|[\"')\\]]))")
_RUNS = re.compile("([!?~。，！？、～])\\1{2,}")
_HALF_WIDTH = re.compile(f"(?<=[{CJK}])[,.;:!?](?=[{CJK}\\s]|$)")
_FULL_WIDTH = re.compile(f"(?<=[{CJK}])[，。；：！？]")
_SENTENCE = re.compile(
    "[.!?。！？…\\n](?:(?<=[.!?])[.!?]*[\"')\\]”’]*\\s+|(?<=[。！？…])[。！？…]*[”’」』）]*\\s*|(?<=\\n)\\s*\\n)"
)


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first of these rules that the text breaks, or None."""
    return broken("punctuation", limits, signals(view, limits))


def signals(view: TextView, limits: Limits) -> Iterator[tuple[str, float]]:
    """What the rules look at, in order."""
    text = view.text
    is_cjk = view.script == "cjk"
    marks = 100 * len(_MARKS.findall(text)) / max(len(view.word_starts), 1)
    yield "min_marks", marks
    yield "max_marks", marks
    yield "max_mark_runs", 100 * len(_RUNS.findall(text)) / max(len(view.word_starts), 1)
    if is_cjk:
        half, full = len(_HALF_WIDTH.findall(text)), len(_FULL_WIDTH.findall(text))
        yield "max_half_width_marks", half / max(half + full, 1)
    lengths = [len(one) if is_cjk else one.count(" ") + one.count("\n") + 1 for one in _SENTENCE.split(text) if one.strip()]
    median = statistics.median(lengths) if lengths else 0
    yield "min_median_sentence", median
    yield "max_median_sentence", median
    longest = limits["long_sentence"]
    yield "max_in_long_sentences", sum(length for length in lengths if length > longest) / max(sum(lengths), 1)
