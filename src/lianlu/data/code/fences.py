"""Fenced code blocks of Markdown (CommonMark 0.31, section 4.5)."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t]*(`{3,})", re.MULTILINE)


def fenced(text: str, lang: str = "") -> str:
    """The text as a code block, its fence longer than any fence in it; the text's last line break is the fence's."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{lang}\n{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{fence}"
