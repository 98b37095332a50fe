"""Gopher's repetition rules (Rae et al. 2021, arXiv 2112.11446, table A1): does this text say the same thing again and again?

Shares are of the characters that are not white space. A duplicate is a second or later occurrence. n-grams are counted
exactly and without hashing: an n-gram can be repeated only where its first n-1 words are, so each length looks only at
the places that the length before left over, and a normal text is through after a few small sorts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lianlu.data.rules.characters import Ints
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits, Verdict, broken

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)


def judge(view: TextView, limits: Limits) -> Verdict | None:
    """The first of these rules that the text breaks, or None."""
    return broken("gopher_repetition", limits, signals(view))


def signals(view: TextView) -> Iterator[tuple[str, float]]:
    """What the rules look at, in order: shares from 0 to 1."""
    for name, pieces in (("line", view.lines), ("paragraph", view.paragraphs)):
        share, chars = duplicate_shares(pieces)
        yield f"max_duplicate_{name}s", share
        yield f"max_duplicate_{name}_chars", chars
    yield from _ngram_signals(view.words, view.word_lengths)


def duplicate_shares(pieces: list[str]) -> tuple[float, float]:
    """Share of pieces that occurred before, and the share of characters in them."""
    distinct = set(pieces)
    if len(distinct) == len(pieces):
        return 0.0, 0.0
    total = sum(map(len, pieces))
    return 1 - len(distinct) / len(pieces), (total - sum(map(len, distinct))) / max(total, 1)


def _ngram_signals(words: list[str], lengths: Ints) -> Iterator[tuple[str, float]]:
    """Shares of characters in the most frequent n-gram (n = 2..4) and in duplicate n-grams (n = 5..10)."""
    ids = _word_ids(words)
    total = max(int(lengths.sum()), 1)
    ends = np.concatenate(([0], np.cumsum(lengths)))
    num_words = len(words)
    places = np.arange(num_words)
    groups = ids
    for size in range(2, 11):
        inside = places + size <= num_words
        places, groups, later = _repeated(places[inside], groups[inside] * num_words + ids[places[inside] + size - 1])
        if size in TOP_SIZES:
            yield f"max_top_{size}gram_chars", _top_chars(places, groups, size, ends) / total
        elif size in DUPLICATE_SIZES:
            yield f"max_duplicate_{size}gram_chars", _covered_chars(places[later], size, lengths) / total


def _word_ids(words: list[str]) -> Ints:
    """Each word as a small number, equal for equal words."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return np.fromiter(map(numbers.__getitem__, words), np.int64, len(words))


def _repeated(places: Ints, keys: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """The places whose key occurs more than once, their keys as small numbers, and which of them are not the first."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.empty(len(keys), dtype=bool)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    alone = first & np.append(first[1:], True)
    kept = ~alone
    return places[order[kept]], np.cumsum(first[kept]) - 1, ~first[kept]


def _top_chars(places: Ints, groups: Ints, size: int, ends: Ints) -> int:
    """Characters in all occurrences of the most frequent n-gram; of several the longest; 0 if none is repeated."""
    if not len(places):
        return 0
    counts = np.bincount(groups)
    begin = places[np.searchsorted(groups, np.flatnonzero(counts == counts.max()))]
    return int((ends[begin + size] - ends[begin]).max() * counts.max())


def _covered_chars(starts: Ints, size: int, lengths: Ints) -> int:
    """Characters of the words that lie in at least one n-gram starting at `starts`."""
    if not len(starts):
        return 0
    steps = np.zeros(len(lengths) + 1, dtype=np.int64)
    steps[starts] += 1
    np.subtract.at(steps, starts + size, 1)
    return int(lengths[np.cumsum(steps)[:-1] > 0].sum())
