"""What a reader of an HTML file sees: its text without tags, scripts and styles, white space folded.

Meant for a share of characters, not for extraction, and linear in the length even where nothing is closed.
"""

from __future__ import annotations

import html
import re

_INVISIBLE = re.compile(
    r"<(script|style|template|noscript|svg|head(?!er))\b[\s\S]*?(?:</\1\s*>|\Z)|<!--[\s\S]*?(?:-->|\Z)|<[a-zA-Z/!?][^<>]*>?",
    re.IGNORECASE,
)


def visible_text(page: str) -> str:
    """The visible text of a page or of a part of one."""
    return " ".join(html.unescape(_INVISIBLE.sub(" ", page)).split())
