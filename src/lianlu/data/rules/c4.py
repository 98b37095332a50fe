"""C4's rules (Raffel et al. 2020, JMLR 20-074): lines that are no sentences are removed, pages that are no text dropped.

FineWeb uses them without the rule that a line must end in a terminal mark; that is the default here too. Blank lines
stay, so that paragraphs stay. An end mark is one of . ! ? or a closing quotation mark, also in their CJK forms. Sentences
are counted line by line, as in the paper's own code: a line without an end mark is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lianlu.data.rules.edits import LINE, Edit
from lianlu.data.rules.textview import TextView, split_words
from lianlu.data.rules.thresholds import Limits, Verdict, broken

END_MARKS = (".", "!", "?", '"', "'", "\u201d", "\u2019", "\u3002", "\uff01", "\uff1f", "\u300d", "\u300f", "\u2026")
POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
    "\u4f7f\u7528cookie",
    "\u9690\u79c1\u653f\u7b56",
)
_SENTENCE = re.compile(r"[.!?]+[\"'\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f]+", re.MULTILINE)


def line_edits(view: TextView, limits: Limits) -> list[Edit]:
    """The lines that break a rule for lines, each with its line break, to be taken out."""
    needed = _line_limits(view, limits)
    if not needed:
        return []
    suspect = view.words_per_line > 0
    if set(needed) == {"min_words_per_line"}:
        suspect &= view.words_per_line < needed["min_words_per_line"]
    edits = []
    for start, end, line in view.spans_of_lines(suspect):
        if verdict := broken("c4", needed, _line_signals(line)):
            edits.append(Edit(start, end, "", LINE, verdict.rule))
    return edits


def _line_limits(view: TextView, limits: Limits) -> Limits:
    """The rules for lines that are on and that some line may break: most pages have no long word and no cookie notice."""
    lowered = view.lowered
    possible = {
        "min_words_per_line": True,
        "max_word_length": view.word_lengths.max(initial=0) > (limits["max_word_length"] or 0),
        "max_javascript_lines": "javascript" in lowered,
        "max_policy_lines": any(phrase in lowered for phrase in POLICY),
        "max_lines_without_end_mark": True,
    }
    return {key: limits[key] for key, may in possible.items() if may and limits.get(key, False) is not False}


def _line_signals(line: str) -> Iterator[tuple[str, float]]:
    words = split_words(line)
    yield "min_words_per_line", len(words)
    yield "max_word_length", max(map(len, words), default=0)
    lowered = line.lower()
    yield "max_javascript_lines", "javascript" in lowered
    yield "max_policy_lines", any(phrase in lowered for phrase in POLICY)
    yield "max_lines_without_end_mark", not line.rstrip().endswith(END_MARKS) or line.rstrip().endswith("...")


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first rule for pages that the text (after `line_edits`) breaks, or None."""
    return broken("c4", limits, signals(view))


def signals(view: TextView) -> Iterator[tuple[str, float]]:
    """What the rules for pages look at, in order."""
    yield "max_lorem_ipsum", "lorem ipsum" in view.lowered
    yield "max_curly_brackets", view.text.count("{")
    unfinished = sum(not line.endswith(END_MARKS) for line in view.lines)
    yield "min_sentences", len(_SENTENCE.findall(view.text)) + unfinished
