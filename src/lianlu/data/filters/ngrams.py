"""Hashed n-grams of characters and words for linear filters: whole batches of texts at once, in numpy.

A text is folded first: lower case, every digit a 0, every run of white space one space, one space at each end. A word is a run
of letters and digits; a CJK character is a word of its own, as in `textview`. Each n-gram becomes one of 2**bits buckets.
The hash is ours and part of the file format of filters (`linear_filter`): change it, and the format needs a new number.
A text is cut into pieces of `PIECE_CHARS`, so that memory stays flat; the few n-grams across a cut are not seen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from lianlu.data.rules.characters import CJK

Codes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]
PIECE_CHARS = 1 << 16
_KNOWN_CODES = 0x30000  # planes 0 to 2; what is above counts as one character
_OTHER, _LETTER, _CJK = 0, 1, 2
_CLASS_SHIFT = 24
_SPACE, _CONTROL = 0x20, 0x7F
_BASE, _WORD_BASE, _GOLDEN = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)


@dataclass(frozen=True)
class NgramSettings:
    """Lengths of the n-grams of characters and of words, and the number of buckets as a power of two."""

    chars: tuple[int, ...] = (2, 3, 4)
    words: tuple[int, ...] = (1, 2)
    bits: int = 20


@dataclass(frozen=True)
class Grams:
    """The n-grams of one length: their buckets, text after text; those of text i are `buckets[starts[i]:ends[i]]`."""

    buckets: Codes
    starts: Places
    ends: Places


def pieces(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Batches of about `PIECE_CHARS` characters: for each piece of a text the number of the text, and the piece."""
    numbers: list[int] = []
    batch: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for start in range(0, max(len(text), 1), PIECE_CHARS):
            piece = text[start : start + PIECE_CHARS]
            if size + len(piece) > PIECE_CHARS and batch:
                yield numbers, batch
                numbers, batch, size = [], [], 0
            numbers.append(number)
            batch.append(piece)
            size += len(piece) + 1
    if batch:
        yield numbers, batch


def hashed(batch: Sequence[str], settings: NgramSettings) -> Iterator[Grams]:
    """The n-grams of a batch of short texts, one length after another; buckets are below 2**bits."""
    codes, starts, ends = _folded(batch)
    shift = np.uint32(32 - settings.bits)
    hashes = codes
    for size in range(1, max(settings.chars, default=0) + 1):
        if size > 1:
            hashes = hashes[:-1] * _BASE + codes[size - 1 :]
        if size in settings.chars:
            yield _grams(_buckets(hashes, size, shift), starts, ends - size + 1)
    if settings.words:
        yield from _word_grams(codes, starts, ends, settings)


def _word_grams(codes: Codes, starts: Places, ends: Places, settings: NgramSettings) -> Iterator[Grams]:
    shift = np.uint32(32 - settings.bits)
    words, begins = _words(codes)
    first, last = np.searchsorted(begins, starts), np.searchsorted(begins, ends)
    hashes = words
    for size in range(1, max(settings.words) + 1):
        if size > 1:
            hashes = hashes[:-1] * _WORD_BASE + words[size - 1 :]
        if size in settings.words:
            yield _grams(_buckets(hashes, 100 + size, shift), first, last - size + 1)


def _grams(buckets: Codes, starts: Places, ends: Places) -> Grams:
    """Those of a text too short for one begin and end at the same place."""
    starts = np.minimum(starts, len(buckets))
    return Grams(buckets, starts, np.maximum(ends, starts))


def _buckets(hashes: Codes, kind: int, shift: np.uint32) -> Codes:
    """Hashes mixed, with the kind of n-gram, down to the wanted number of bits."""
    mixed = hashes * _GOLDEN
    mixed += np.uint32(kind * 0x27D4EB2F & 0xFFFFFFFF)
    mixed ^= mixed >> np.uint32(15)
    mixed *= _BASE
    mixed >>= shift
    return mixed


def _folded(batch: Sequence[str]) -> tuple[Codes, Places, Places]:
    """Folded characters of all texts with their class in the top byte; where each text starts and ends among them."""
    bare = [text.strip() for text in batch]
    joined = f" {' '.join(bare)} "
    raw = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    codes = _fold_table()[np.minimum(raw, _KNOWN_CODES - 1)]
    marks = np.cumsum([0, *(len(text) + 1 for text in bare)])  # the spaces between the texts
    is_space = codes == _SPACE
    kept = np.ones(len(codes), dtype=bool)
    np.logical_and(is_space[1:], is_space[:-1], out=kept[1:])
    np.logical_not(kept[1:], out=kept[1:])
    if kept.all():
        return codes, marks[:-1], marks[1:] + 1
    places = np.cumsum(kept)[marks]
    return codes[kept], places[:-1] - 1, places[1:]


def _words(codes: Codes) -> tuple[Codes, Places]:
    """A hash of each word, and where it begins; spaces stand at both ends of `codes`.

    Prefix sums of a polynomial give the hash of any run: the odd base has an inverse modulo 2**32.
    """
    classes = (codes >> np.uint32(_CLASS_SHIFT)).astype(np.uint8)
    is_letter, is_cjk = classes == _LETTER, classes == _CJK
    begins = is_cjk.copy()
    begins[1:] |= is_letter[1:] & ~is_letter[:-1]
    stops = is_cjk.copy()
    stops[:-1] |= is_letter[:-1] & ~is_letter[1:]
    powers, inverse = _powers(1 << (len(codes) - 1).bit_length())
    sums = np.zeros(len(codes) + 1, dtype=np.uint32)
    np.cumsum(codes * powers[: len(codes)], dtype=np.uint32, out=sums[1:])
    first, last = np.flatnonzero(begins), np.flatnonzero(stops)
    return (sums[last + 1] - sums[first]) * inverse[first], first


@cache
def _powers(count: int) -> tuple[Codes, Codes]:
    """Powers of the base, and of its inverse, modulo 2**32."""
    inverse = np.uint32(pow(int(_WORD_BASE), -1, 1 << 32))
    made = []
    for base in (_WORD_BASE, inverse):
        row = np.full(count, base, dtype=np.uint32)
        row[0] = 1
        made.append(np.cumprod(row, dtype=np.uint32))
    return made[0], made[1]


@cache
def _fold_table() -> Codes:
    """What each character becomes."""
    table = np.arange(_KNOWN_CODES, dtype=np.uint32)
    is_cjk = re.compile(f"[{CJK}]").match
    for code in range(_KNOWN_CODES):
        table[code] = _fold(chr(code), bool(is_cjk(chr(code))))
    return table


def _fold(character: str, is_cjk: bool) -> int:
    if character.isspace():
        return _SPACE
    if character < " ":
        return _CONTROL
    if is_cjk:
        return ord(character) | _CJK << _CLASS_SHIFT
    if character.isdigit():
        return ord("0") | _LETTER << _CLASS_SHIFT
    if unicodedata.category(character)[0] not in "LMN":
        return ord(character) | _OTHER << _CLASS_SHIFT
    lowered = character.lower()
    return ord(lowered if len(lowered) == 1 else character) | _LETTER << _CLASS_SHIFT
