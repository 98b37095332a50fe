"""What each character of a text is, for all characters at once: what lets rules count without a loop over lines and words.

    text -> code points -> kinds (bits, from one table of all of Unicode) -> numpy masks, sums per line, hashes per word

The table is made from Python's own answers (`\\s`, `\\w`, `isalpha`, categories), so that both ways of looking agree. It
is made once in a process.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from enum import IntFlag, auto
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
CJK_MARKS = "\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"


class Kind(IntFlag):
    """What a character is; several hold for one."""

    SPACE = auto()
    RARE_SPACE = auto()
    """White space other than blank, tab and line feed."""
    CJK = auto()
    CJK_MARK = auto()
    WORD = auto()
    DIGIT = auto()
    LETTER = auto()
    """Of words, but no digit and no `_`; there are letters that are not alphabetic (`½`)."""
    ALPHABETIC = auto()
    UPPER = auto()
    CONTROL = auto()
    """What `normalise` deletes."""
    LINE_BREAK = auto()
    """What `normalise` makes a line feed."""
    JOINER = auto()
    PRIVATE = auto()
    """For private use, unassigned, or half of a pair."""
    SYMBOL = auto()


CONTROLS = (
    "\x00-\x08\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
)
LINE_BREAKS = "\r\u0085\u2028\u2029\x0b"
_CLASSES = {
    Kind.SPACE: r"\s",
    Kind.RARE_SPACE: r"[^\S \t\n]",
    Kind.CJK: f"[{CJK}]",
    Kind.CJK_MARK: f"[{CJK_MARKS}]",
    Kind.WORD: r"\w",
    Kind.DIGIT: r"\d",
    Kind.LETTER: r"[^\W\d_]",
    Kind.CONTROL: f"[{CONTROLS}]",
    Kind.LINE_BREAK: f"[{LINE_BREAKS}]",
    Kind.JOINER: "[\u200c\u200d]",
}
_CATEGORIES = {"Co": Kind.PRIVATE, "Cn": Kind.PRIVATE, "Cs": Kind.PRIVATE, "So": Kind.SYMBOL, "Sk": Kind.SYMBOL}
_NUM_CODES, _PLANE = 0x110000, 0x10000
_STRIDE = np.uint64(1 << 21)
"""Above all code points."""
_BLOCK = 1 << 20
Codes = npt.NDArray[np.uint32]
Kinds = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@cache
def _table() -> Kinds:
    """The bits of every code point."""
    table = np.full(_NUM_CODES, Kind.PRIVATE, np.uint16)  # so are all planes but these
    for plane in (0, 1, 2, 3, 14):
        first = plane * _PLANE
        every = "".join(map(chr, range(first, first + _PLANE)))
        categories = map(_CATEGORIES.get, map(unicodedata.category, every), repeat(0))
        own = np.fromiter(categories, np.uint16, _PLANE)
        own |= np.where(np.fromiter(map(str.isalpha, every), bool, _PLANE), np.uint16(Kind.ALPHABETIC), np.uint16(0))
        own |= np.where(np.fromiter(map(str.isupper, every), bool, _PLANE), np.uint16(Kind.UPPER), np.uint16(0))
        for kind, pattern in _CLASSES.items():
            own[codes("".join(re.findall(pattern, every))) - first] |= np.uint16(kind)
        table[first : first + _PLANE] = own
    return table


def codes(text: str) -> Codes:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds(points: Codes) -> Kinds:
    """The bits of each of these code points."""
    found: Kinds = _table()[points]
    return found


def present(text: str) -> int:
    """The bits that some character of the text has."""
    return int(np.bitwise_or.reduce(kinds(codes(text)))) if text else 0


class Characters:
    """The characters of a text with a line feed behind it, so that every line ends with one."""

    def __init__(self, text: str) -> None:
        self.codes = codes(f"{text}\n")
        self.kinds = kinds(self.codes)
        breaks = np.flatnonzero(self.codes == ord("\n"))
        self.line_starts: Ints = np.concatenate(([0], breaks[:-1] + 1))
        self.line_ends: Ints = breaks
        """Without the line feed."""

    def has(self, bits: int) -> Mask:
        """Which characters have one of these bits."""
        found: Mask = (self.kinds & np.uint16(bits)) != 0
        return found

    def per_line(self, mask: Mask) -> Ints:
        """How many characters of each line are in the mask."""
        return sums(mask, self.line_starts)

    def word_starts(self) -> Mask:
        """Where words begin: characters of CJK, runs of CJK marks, runs of what else is no white space."""
        kind = self.kinds & np.uint16(Kind.SPACE | Kind.CJK | Kind.CJK_MARK)
        before = np.concatenate((np.array([Kind.SPACE], np.uint16), kind[:-1]))
        begins: Mask = (kind == Kind.CJK) | ((kind != Kind.SPACE) & (kind != before))
        return begins


def sums(values: npt.NDArray[Any], starts: Ints) -> Ints:
    """Sums of values from each start to the next; starts are in order and no two are equal."""
    if not len(starts):
        return np.zeros(0, np.int64)
    found: Ints = np.add.reduceat(values, starts, dtype=np.int64)
    return found


def mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64: every bit of the input reaches every bit of the output."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def hashes(points: Codes, keep: Mask, starts: Ints) -> Hashes:
    """A hash of the kept characters in order, from each start to the next; nothing kept is 0. The first start is 0."""
    found = np.empty(len(starts), np.uint64)
    first = 0
    while first < len(starts):  # about a block at a time, since it takes 20 bytes for each character
        last = max(int(np.searchsorted(starts, starts[first] + _BLOCK)), first + 1)
        begin, end = starts[first], starts[last] if last < len(starts) else len(points)
        found[first:last] = _hashes(points[begin:end], keep[begin:end], starts[first:last] - begin)
        first = last
    return found


def _hashes(points: Codes, keep: Mask, starts: Ints) -> Hashes:
    place = np.cumsum(keep, dtype=np.uint32)
    place -= np.repeat(place[starts] - keep[starts], np.diff(starts, append=len(points)))
    values = place.astype(np.uint64)
    values *= _STRIDE
    values += points
    values = mixed(values)
    values[~keep] = 0
    found: Hashes = np.add.reduceat(values, starts)
    return found


def token_hashes(lowered: str) -> Hashes:
    """Hashes of the words for comparing texts: of a text in lower case: no marks, each CJK character alone."""
    points = codes(lowered)
    kind = kinds(points)
    cjk = (kind & np.uint16(Kind.CJK)) != 0
    word = ((kind & np.uint16(Kind.WORD)) != 0) & ~cjk
    inside = cjk | word
    begins = cjk | (word & ~np.concatenate(([False], word[:-1])))
    chosen = points[inside]
    return hashes(chosen, np.ones(len(chosen), bool), np.flatnonzero(begins[inside]))


def hashes_of(tokens: Sequence[str]) -> Hashes:
    """The hash of each of these tokens, of which none is empty."""
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    points = codes("".join(tokens))
    return hashes(points, np.ones(len(points), bool), np.cumsum(lengths) - lengths)
