"""Separators and line breaks that are not as people set them: one of InternLM2's families of rules (arXiv 2403.17297, 3.1.1).

The report names the family and publishes no threshold. What is looked at is ours: words cut at the end of a line, sentences of
CJK script cut by line breaks, sentences that lost the space between them, escaped line breaks, runs of separators, lines of one
or two characters, and lines that never end. Extracted PDF pages and broken crawls show one of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lianlu.data.rules.characters import CJK
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Verdict, broken

_CUT_WORD = re.compile(r"[^\W\d_]{2}-\n[^\S\n]*[a-z]")
_CUT_SENTENCE = re.compile(f"[{CJK}][^\\S\\n]*\\n[^\\S\\n]*(?=[{CJK}])")
# patterns begin with a set of marks and look behind it afterwards: the search then skips to such marks at once
_GLUED = re.compile(r"[.!?](?<=[a-z]{3}.)[A-Z][a-z]")
_SENTENCE_END = re.compile(r"[.!?](?<=[a-z].)(?=\s)")
_SEPARATORS = re.compile(r"([-=_*~#+.|/\\<>—–─━═·•。])(?:(?:[^\S\n]?\1){3,}|(?<=[-=_*~#+|])[-=_*~#+|]{3,})")
_ESCAPED = re.compile(r"\\[rn](?=\\|[A-Z\s]|[^\x00-\x7f]|$)")
TINY_CHARS = 2


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first of these rules that the text breaks, or None."""
    return broken("line_breaks", limits, signals(view))


def signals(view: TextView) -> Iterator[tuple[str, float]]:
    """What the rules look at, in order; shares of lines, of sentences or of characters, and characters of the longest line."""
    text, lines = view.text, view.lines
    count = max(len(lines), 1)
    yield "max_cut_words", len(_CUT_WORD.findall(text)) / count if "-\n" in text else 0.0
    if view.script == "cjk":
        yield "max_cut_sentences", len(_CUT_SENTENCE.findall(text)) / count
    else:
        glued = len(_GLUED.findall(text))
        yield "max_glued_sentences", glued / (glued + len(_SENTENCE_END.findall(text))) if glued else 0.0
    yield "max_escaped_breaks", len(_ESCAPED.findall(text)) / count if "\\" in text else 0.0
    runs = sum(match.end() - match.start() for match in _SEPARATORS.finditer(text))
    yield "max_separator_chars", runs / max(len(text), 1)
    yield "max_tiny_lines", sum(len(line) <= TINY_CHARS for line in lines) / count
    yield "max_line_chars", max(map(len, lines), default=0)
