"""Unicode and line breaks made regular, before any rule looks at a text.

NFC; every kind of line break becomes a line feed; control characters, byte order marks, soft hyphens, zero-width spaces and
bidirectional controls go (zero-width joiners stay where scripts and emoji need them); space at line ends goes; runs of
blank lines shrink to two. Indentation and tabs stay, since code needs them.
"""

from __future__ import annotations

import re
import unicodedata

_LINE_BREAKS = re.compile("\r\n?|[\u0085\u2028\u2029\x0b]")
_CONTROLS = re.compile(
    "[\x00-\x08\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_LOOSE_JOINERS = re.compile("(?:(?<=[\x00-\x7f])|^)[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)")
# a run is tried once, at its beginning: tried at every place of it, a mebibyte of spaces would take an hour
_TRAILING_SPACE = re.compile(r"(?<![^\S\n])[^\S\n]++$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")


def normalise(text: str) -> str:
    """The text in regular form; doing it twice changes nothing more."""
    text = _LINE_BREAKS.sub("\n", text)
    text = _CONTROLS.sub("", text)
    if not text.isascii():
        text = _LOOSE_JOINERS.sub("", text)
        text = unicodedata.normalize("NFC", text)
    text = _TRAILING_SPACE.sub("", text)
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")
