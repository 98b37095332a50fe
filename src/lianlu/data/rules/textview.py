"""One document's text as the rules see it: words, lines, paragraphs and script, each computed once.

A word is a run of characters without white space, except that every CJK character (Han, kana, hangul) is a word of its
own: counts then mean something in Chinese and Japanese, and rules made for English words do not throw such texts out.
Blank lines are no lines. No rule looks at the text in any other way.
"""

from __future__ import annotations

import re
from functools import cached_property

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_CHARACTER = re.compile(f"[{CJK}]")
_CJK_MARKS = "\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_WORD = re.compile(f"[{CJK}]|[{_CJK_MARKS}]+|[^\\s{CJK}{_CJK_MARKS}]+")
_TOKEN = re.compile(f"[{CJK}]|[^\\W{CJK}]+")
_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n\s*")
CJK_SHARE = 0.3
"""A text is of script `cjk` when at least this share of its words are CJK characters."""


def split_words(text: str) -> list[str]:
    """The words of a text in order."""
    return text.split() if text.isascii() else _WORD.findall(text)


class TextView:
    """The text of one document with what rules ask of it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def num_bytes(self) -> int:
        """Size in UTF-8."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())

    @cached_property
    def num_cjk(self) -> int:
        """How many CJK characters there are."""
        return 0 if self.text.isascii() else len(_CJK_CHARACTER.findall(self.text))

    @cached_property
    def words(self) -> list[str]:
        """The words in order."""
        return split_words(self.text) if self.num_cjk else self.text.split()

    @cached_property
    def num_word_chars(self) -> int:
        """Characters that are not white space."""
        return sum(map(len, self.words))

    @cached_property
    def script(self) -> str:
        """`cjk`, or empty for everything that writes words with spaces between them."""
        return "cjk" if self.num_cjk and self.num_cjk >= CJK_SHARE * len(self.words) else ""

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without the space around them."""
        return [line for raw in self.text.split("\n") if (line := raw.strip())]

    @cached_property
    def paragraphs(self) -> list[str]:
        """The blocks between blank lines."""
        return [block for block in _PARAGRAPH_BREAK.split(self.text.strip()) if block]

    def tokens(self) -> list[str]:
        """Words for comparing texts: lower case, no punctuation, no indentation, each CJK character alone."""
        return _TOKEN.findall(self.text.lower())

    def token_spans(self) -> list[tuple[int, int]]:
        """Start and end of each of the tokens in the text."""
        lower = self.text.lower()
        spans = [match.span() for match in _TOKEN.finditer(lower)]
        if len(lower) == len(self.text):
            return spans
        origin = [place for place, character in enumerate(self.text) for _ in character.lower()]  # some have two in lower case
        return [(origin[start], origin[end - 1] + 1) for start, end in spans]
