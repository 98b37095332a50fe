"""The elements of a JSON array, or JSON values one behind the other, without holding the file.

Values are found by the library's own scanner. Where it fails, brackets and quotation marks are counted: a broken element
whose brackets fit is given out like the others, so that only this one is lost; where they do not fit, what follows cannot
be told apart, and the rest of the file is one rejected record.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from lianlu.formats import jsonl
from lianlu.formats.examples.record import Raw

MAX_CHARS = jsonl.MAX_LINE_BYTES
_READ_BYTES = 1 << 20
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\],\n]', re.DOTALL)
_BETWEEN = re.compile(r"[\s,]*")
_OF_NUMBERS = "0123456789.eE+-"
_DECODER = json.JSONDecoder()


def read_elements(path: Path, max_chars: int = MAX_CHARS) -> Iterator[Raw]:
    """The elements of the file as text, with their index. Raises: DataError when the file cannot be opened."""
    index = 0
    with jsonl.open_bytes(path) as file:
        window = _Window(file)
        try:
            is_array = window.next_char() == "["
            window.at += is_array
            while (char := window.next_char()) and not (is_array and char == "]"):
                element = window.element(max_chars)
                if element is None:
                    too_long = len(window.text) - window.at > max_chars
                    why = f"above the limit of {max_chars:,} characters" if too_long else "broken off or unbalanced"
                    yield Raw(index, window.text[window.at : window.at + 10_000], f"{why}; nothing after it is read")
                    return
                yield Raw(index, element)
                index += 1
            if is_array and not char:
                yield Raw(index, "", "the array has no end: the file is truncated")
            elif is_array and window.next_char_after():
                yield Raw(index, window.text[window.at : window.at + 10_000], "it follows the end of the array and is not read")
        except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
            yield Raw(index, "", jsonl.damage(error))


class _Window:
    """The part of a text that is looked at: `text[at:]` comes next."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._is_at_end = False
        self.text, self.at = "", 0

    def next_char(self) -> str:
        """The next character that is neither white space nor a comma, without taking it; empty at the end of the file."""
        while True:
            self.at = _at_least(_BETWEEN.match(self.text, self.at), self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def next_char_after(self) -> str:
        """Step over the next character; the one after it, as `next_char`."""
        self.at += 1
        return self.next_char()

    def element(self, max_chars: int) -> str | None:
        """Take the element that begins here; None if it has no end, or none within `max_chars`."""
        while True:
            end = self._end()
            if end is not None and (end < len(self.text) or self._is_at_end):
                taken = self.text[self.at : end]
                self.at = end
                return taken
            if len(self.text) - self.at > max_chars or not self._more():
                return None

    def _end(self) -> int | None:
        """Where the element ends in the text so far."""
        try:
            end = _DECODER.raw_decode(self.text, self.at)[1]
        except (ValueError, RecursionError):
            return _balanced(self.text, self.at)
        is_cut = self.text[end : end + 1] in _OF_NUMBERS  # 0 of 0.5, where the text so far ends with 0.
        return _balanced(self.text, self.at) if is_cut and end < len(self.text) else end

    def _more(self) -> bool:
        """Read on, twice as much each time an element is not whole; False at the end of the file."""
        if self._is_at_end:
            return False
        data = self._file.read(max(_READ_BYTES, len(self.text) - self.at))
        self._is_at_end = not data
        self.text = self.text[self.at :] + self._decode(data, final=not data)
        self.at = 0
        return True


def _at_least(match: re.Match[str] | None, at: int) -> int:
    return match.end() if match else at


def _balanced(text: str, start: int) -> int | None:
    """Where the brackets opened since `start` are closed; what begins with none ends at a comma, a line's end or a bracket."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        char, at = token[0], token.start()
        if char == '"':
            return None  # a text without an end
        if char in "{[":
            if depth == 0 and at > start:
                return at
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth <= 0:
                return token.end() if depth == 0 else max(at, start + 1)
        elif depth == 0 and char in ",\n":
            return at
    return None
