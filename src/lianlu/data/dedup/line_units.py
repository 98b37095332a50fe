"""The lines and paragraphs of a text as `line_dedup` compares them: where they are and what they hash to, in arrays.

Two lines are the same when their letters and digits are, whatever the case and which digits (CCNet, arXiv 1911.00359); in a
line with a link digits count, since links of one site differ in nothing else. A paragraph is two lines or more between blank
lines or lines that are taken out anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lianlu.data.rules.characters import Characters, Hashes, Ints, Kind, Mask, hashes, mixed, sums
from lianlu.data.rules.edits import Edit
from lianlu.data.rules.thresholds import Limits

RULES = ("max_line_documents", "max_paragraph_documents")
"""Rules for lines and for paragraphs; the lowest bit of a hash says which of them it is."""
_MEMBER = np.uint64(0x9E3779B97F4A7C15)
_ZERO = np.uint32(ord("0"))


@dataclass(frozen=True, slots=True)
class Units:
    """Lines (with their breaks) and paragraphs in order, a paragraph before its lines: where each starts and ends, its hash."""

    starts: Ints
    ends: Ints
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.starts)


def units(text: str, limits: Limits, gone: Sequence[Edit] = ()) -> Units:
    """The paragraphs and lines of a normalised text that rules look at.

    `limits` has the rules and `min_chars`, the fewest letters and digits; `gone` are lines that are taken out anyway.
    """
    on = [limits.get(rule, False) is not False for rule in RULES]
    none = np.empty(0, np.int64)
    if not any(on):
        return Units(none, none, np.empty(0, np.uint64))
    of = Characters(text)
    lines = np.flatnonzero(_counting(of, gone))
    starts, ends = of.line_starts[lines], np.minimum(of.line_ends[lines] + 1, len(text))
    hashed, sizes = _forms(text.lower())
    hashed, sizes = hashed[lines], sizes[lines]
    firsts = np.flatnonzero(np.diff(lines, prepend=-2) > 1)
    members = np.diff(firsts, append=len(lines))
    place = (np.arange(len(lines)) - np.repeat(firsts, members)).astype(np.uint64)
    many = members > 1
    blocks = np.add.reduceat(mixed(hashed + place * _MEMBER), firsts) if len(firsts) else hashed
    block_sizes = sums(sizes, firsts) + members - 1  # with the breaks between them
    lasts = firsts + members - 1
    chosen_lines = (sizes >= limits["min_chars"]) & on[0]
    chosen_blocks = many & (block_sizes >= limits["min_chars"]) & on[1]
    all_starts = np.concatenate((starts[firsts][chosen_blocks], starts[chosen_lines]))
    all_ends = np.concatenate((ends[lasts][chosen_blocks], ends[chosen_lines]))
    all_hashes = np.concatenate((blocks[chosen_blocks] | np.uint64(1), hashed[chosen_lines] & ~np.uint64(1)))
    order = np.argsort(all_starts, kind="stable")  # of those that start together the paragraph is first
    return Units(all_starts[order], all_ends[order], all_hashes[order])


def _counting(of: Characters, gone: Sequence[Edit]) -> Mask:
    """The lines that are not blank and in nothing that goes."""
    counting = of.per_line(~of.has(Kind.SPACE)) > 0
    if gone:
        starts = np.array([edit.start for edit in gone])
        ends = np.array([edit.end for edit in gone])
        before = np.searchsorted(starts, of.line_ends) - 1
        counting &= (before < 0) | (ends[before] <= of.line_starts)
    return counting


def _forms(lowered: str) -> tuple[Hashes, Ints]:
    """What is compared of each line, as a hash, and of how many characters: letters and digits, which but in links are zeros."""
    of = Characters(lowered)
    keep = of.has(Kind.WORD)
    digit = of.has(Kind.DIGIT)
    if "://" in lowered:
        digit &= ~_in_links(of)
    return hashes(np.where(digit, _ZERO, of.codes), keep, of.line_starts), of.per_line(keep)


def _in_links(of: Characters) -> Mask:
    """The characters of lines with a link."""
    colon, slash = of.codes == ord(":"), of.codes == ord("/")
    link = np.zeros(len(of.codes), bool)
    link[:-2] = colon[:-2] & slash[1:-1] & slash[2:]
    return np.repeat(of.per_line(link) > 0, np.diff(of.line_starts, append=len(of.codes)))
