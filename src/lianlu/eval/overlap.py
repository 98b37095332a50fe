"""How much of a reference a text repeats: word F1 (as in SQuAD) and ROUGE-L (Lin 2004), both in 0..1.

They reward wording, not truth: use them beside a likelihood, never alone.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_WORD = re.compile(r"[^a-z0-9]+")


def word_f1(text: str, reference: str) -> float:
    """F1 of the bags of words, without case, punctuation and articles."""
    ours, theirs = _plain_words(text), _plain_words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of lower-case words of a-z and 0-9."""
    ours, theirs = _NOT_WORD.sub(" ", text.lower()).split(), _NOT_WORD.sub(" ", reference.lower()).split()
    if not ours or not theirs:
        return 0.0
    return 2 * _longest_common(ours, theirs) / (len(ours) + len(theirs))


def _plain_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, row by row."""
    row = [0] * (len(second) + 1)
    for word in first:
        corner = 0
        for index, other in enumerate(second, 1):
            above = row[index]
            row[index] = corner + 1 if word == other else max(above, row[index - 1])
            corner = above
    return row[-1]
