"""Words as a score: weighted hits per 1000 words, from a list that the user names; a single word never drops a document.

InternLM2 (arXiv 2403.17297, section 3.1.1) uses 36,289 words and warns of using them alone. A line of the list is a word or a
phrase, with a weight behind a tab (1 if there is none); `#` begins a comment line. Matching is by whole tokens, as `textview`
cuts them: "ass" is not in "class", and Chinese phrases match character by character wherever they stand. Of phrases that begin
at the same place the longest counts, and its tokens count once. No list, no rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lianlu.core.errors import DataError
from lianlu.data.rules.textview import TextView

Phrases = dict[str, list[tuple[list[str], float]]]


class UnsafeWords:
    """Words and phrases with weights, by their first token, the longest first."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._phrases: Phrases = {}
        for phrase, weight in weights.items():
            if tokens := TextView(phrase).tokens():
                self._phrases.setdefault(tokens[0], []).append((tokens, weight))
        for found in self._phrases.values():
            found.sort(key=lambda item: -len(item[0]))

    def per_thousand(self, view: TextView) -> float:
        """Sum of the weights of all hits per 1000 tokens of the text."""
        tokens = view.tokens()
        starts = [place for place, token in enumerate(tokens) if token in self._phrases]
        total, free = 0.0, 0
        for place in starts:
            if place >= free:
                length, weight = self._hit(tokens, place)
                total += weight
                free = place + length
        return 1000 * total / max(len(tokens), 1)

    def _hit(self, tokens: list[str], place: int) -> tuple[int, float]:
        for phrase, weight in self._phrases[tokens[place]]:
            if tokens[place : place + len(phrase)] == phrase:
                return len(phrase), weight
        return 0, 0.0


def signals(view: TextView, words: UnsafeWords) -> Iterator[tuple[str, float]]:
    """What the rule looks at."""
    yield "max_unsafe_words", words.per_thousand(view)


def load(path: Path) -> UnsafeWords:
    """Read a list. Raises: DataError if it is missing, empty, or a weight is no number."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the list of words {path}: {error}", hint="a UTF-8 text: WORD, tab, WEIGHT on each line"
        ) from error
    weights = dict(_weighted(path, lines))
    if not weights:
        raise DataError(f"there are no words in {path}", hint="a UTF-8 text: WORD, tab, WEIGHT on each line")
    return UnsafeWords(weights)


def _weighted(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, float]]:
    for number, line in enumerate(lines, 1):
        word, _, weight = line.partition("\t")
        if not word.strip() or word.startswith("#"):
            continue
        try:
            value = float(weight or 1)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{path}, line {number}: the weight {weight!r} is no number", hint="WORD, tab, WEIGHT")
        yield word.strip(), value
