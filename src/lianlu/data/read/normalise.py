"""Unicode and line breaks made regular, before any rule looks at a text.

NFC; every kind of line break becomes a line feed; control characters, byte order marks, soft hyphens, zero-width spaces and
bidirectional controls go (zero-width joiners stay where scripts and emoji need them); space at line ends goes; runs of
blank lines shrink to two. Indentation and tabs stay, since code needs them.
"""

from __future__ import annotations

import re
import unicodedata

from lianlu.data.rules import characters
from lianlu.data.rules.characters import Kind

_LINE_BREAKS = re.compile(f"\r\n?|[{characters.LINE_BREAKS}]")
_CONTROLS = re.compile(f"[{characters.CONTROLS}]")
_LOOSE_JOINERS = re.compile("(?:(?<=[\x00-\x7f])|^)[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)")
# a run is tried once, at its beginning: tried at every place of it, a mebibyte of spaces would take an hour
_TRAILING_SPACE = re.compile(r"(?<![^\S\n])[^\S\n]++$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")


def normalise(text: str) -> str:
    """The text in regular form; doing it twice changes nothing more.

    Most texts need little of this: one look at all characters says what.
    """
    present = characters.present(text)
    if present & Kind.LINE_BREAK:
        text = _LINE_BREAKS.sub("\n", text)
    if present & Kind.CONTROL:
        text = _CONTROLS.sub("", text)
    if not text.isascii():
        if present & Kind.JOINER:
            text = _LOOSE_JOINERS.sub("", text)
        text = unicodedata.normalize("NFC", text)
    if present & Kind.RARE_SPACE or " \n" in text or "\t\n" in text or text[-1:] in (" ", "\t"):
        text = _TRAILING_SPACE.sub("", text)
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n") if "\n\n\n\n" in text else text.strip("\n")
