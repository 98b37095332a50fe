"""One document's text as the rules see it: words, lines, paragraphs and script, each computed once.

A word is a run of characters without white space, except that every CJK character (Han, kana, hangul) is a word of its
own: counts then mean something in Chinese and Japanese, and rules made for English words do not throw such texts out.
Blank lines are no lines. No rule looks at the text in any other way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from lianlu.data.rules import characters
from lianlu.data.rules.characters import CJK, CJK_MARKS, Characters, Hashes, Ints, Kind, Mask

_WORD = re.compile(f"[{CJK}]|[{CJK_MARKS}]+|[^\\s{CJK}{CJK_MARKS}]+")
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
    def lowered(self) -> str:
        """In lower case."""
        return self.text.lower()

    @cached_property
    def characters(self) -> Characters:
        """What each character is."""
        return Characters(self.text)

    @cached_property
    def num_cjk(self) -> int:
        """How many CJK characters there are."""
        return 0 if self.text.isascii() else int(self.characters.has(Kind.CJK).sum())

    @cached_property
    def words(self) -> list[str]:
        """The words in order."""
        return split_words(self.text) if self._has_cjk else self.text.split()

    @cached_property
    def _has_cjk(self) -> bool:
        return not self.text.isascii() and bool(self.characters.has(Kind.CJK | Kind.CJK_MARK).any())

    @cached_property
    def word_starts(self) -> Ints:
        """The place of the first character of each word."""
        return np.flatnonzero(self._begins)

    @cached_property
    def _begins(self) -> Mask:
        return self.characters.word_starts()

    @cached_property
    def word_lengths(self) -> Ints:
        """The characters of each word."""
        return characters.sums(~self.characters.has(Kind.SPACE), self.word_starts)

    @cached_property
    def words_per_line(self) -> Ints:
        """The words of each line of the text, blank ones included."""
        return self.characters.per_line(self._begins)

    @cached_property
    def num_word_chars(self) -> int:
        """Characters that are not white space."""
        return int(self.word_lengths.sum())

    @cached_property
    def script(self) -> str:
        """`cjk`, or empty for everything that writes words with spaces between them."""
        return "cjk" if self.num_cjk and self.num_cjk >= CJK_SHARE * len(self.word_starts) else ""

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without the space around them."""
        return [line for raw in self.text.split("\n") if (line := raw.strip())]

    def spans_of_lines(self, chosen: Mask) -> Iterator[tuple[int, int, str]]:
        """Start, end (with its break) and text of those lines that are in the mask, which has one bit for each line."""
        starts, ends = self.characters.line_starts[chosen].tolist(), self.characters.line_ends[chosen].tolist()
        for start, end in zip(starts, ends, strict=True):
            yield start, min(end + 1, len(self.text)), self.text[start:end]

    @cached_property
    def paragraphs(self) -> list[str]:
        """The blocks between blank lines."""
        return [block for block in _PARAGRAPH_BREAK.split(self.text.strip()) if block]

    def tokens(self) -> list[str]:
        """Words for comparing texts: lower case, no punctuation, no indentation, each CJK character alone."""
        return _TOKEN.findall(self.lowered)

    def token_hashes(self) -> Hashes:
        """A hash of each of the tokens, without making them."""
        return characters.token_hashes(self.lowered)

    def token_spans(self) -> list[tuple[int, int]]:
        """Start and end of each of the tokens in the text."""
        lower = self.lowered
        spans = [match.span() for match in _TOKEN.finditer(lower)]
        if len(lower) == len(self.text):
            return spans
        origin = [place for place, character in enumerate(self.text) for _ in character.lower()]  # some have two in lower case
        return [(origin[start], origin[end - 1] + 1) for start, end in spans]
