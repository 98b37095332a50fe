"""Characters that no one typed: one of InternLM2's families of rules (arXiv 2403.17297, section 3.1.1), which are not published.

Shares of all characters: replacement characters and what GBK made of them ("锟斤拷"), control characters, private use and
unassigned code points, symbols, and mojibake, that is text whose bytes were read in a wrong encoding: UTF-8 as Latin-1 or
Windows-1252 ("Ã©", "â€™", "ä¸­"), UTF-8 as GBK ("鐨勶紝"), GBK as Latin-1 ("ÎÒÃÇ"). Our own patterns and bounds.

`normalise` takes control characters out, so that in the clean stage only what it leaves is seen here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from lianlu.data.rules.characters import Characters, Kind, Mask
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Verdict, broken

_REPLACED_BEGIN = "\ufffd锟烫屯锘"
_REPLACED = re.compile("\ufffd|锟斤拷|锟斤|烫烫烫+|屯屯屯+|锘挎")
_TRAIL = "\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122"
"""The bytes 80 to BF as Latin-1 and Windows-1252 show them."""
_AS_LATIN = f"[ÂÃÄÅÐÑ][{_TRAIL}]|â€[{_TRAIL}]?|[à-ï][{_TRAIL}]{{2}}|ï»¿|[åæçèé][\u00a1-\u00bf]"
_GBK_AS_LATIN = "[\u00a1-\u00ff]{4,}"
_AS_GBK = "[鐨銆锛鈥鏄涓鍦浠鎴戜粬锝殑绗簩紝孩鏂囧瓧]{2,}|[鐨銆锛鈥][\u4e00-\u9fff]"
_MOJIBAKE_BEGINS = re.compile("[\u00a1-\u00ff鐨銆锛鈥鏄涓鍦浠鎴戜粬锝殑绗簩紝孩鏂囧瓧]").search
_MOJIBAKE = re.compile(f"{_AS_LATIN}|{_GBK_AS_LATIN}|{_AS_GBK}")


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first of these rules that the text breaks, or None."""
    return broken("odd_characters", limits, signals(view))


def signals(view: TextView) -> Iterator[tuple[str, float]]:
    """What the rules look at, in order: shares of the characters of the text, 0 to 1."""
    text, of = view.text, view.characters
    count = max(len(text), 1)
    plain = text.isascii()
    may_be_replaced = not plain and any(mark in text for mark in _REPLACED_BEGIN)
    yield "max_replacement_chars", _covered(_REPLACED, text) / count if may_be_replaced else 0.0
    yield "max_control_chars", int(_is_control(of).sum()) / count
    may_be_mojibake = not plain and _MOJIBAKE_BEGINS(text) is not None
    yield "max_mojibake_chars", _covered(_MOJIBAKE, text) / count if may_be_mojibake else 0.0
    yield "max_private_use", 0.0 if plain else _num_odd(of, Kind.PRIVATE) / count
    yield "max_symbols", 0.0 if plain else _num_odd(of, Kind.SYMBOL) / count


def _covered(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


def _is_control(of: Characters) -> Mask:
    """Control characters without tab, line feed and carriage return."""
    low, high = of.codes < 0x20, (of.codes >= 0x7F) & (of.codes <= 0x9F)
    found: Mask = high | (low & ~np.isin(of.codes, (0x09, 0x0A, 0x0D)))
    return found


def _num_odd(of: Characters, kind: Kind) -> int:
    """How many characters are of this kind; the ASCII ones ("^", "`") and U+FFFD are not odd."""
    return int((of.has(kind) & (of.codes > 0x7F) & (of.codes != 0xFFFD)).sum())
