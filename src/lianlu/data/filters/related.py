"""Seeds that are made of each other: a good text and the junk that was made of it by shuffling, or two copies of one page.

Held out apart, such a pair spoils the figures of a filter: words that only the two of them have then speak for the wrong label
(junk) or the right one (copies). So they are found by the words that they share, in whatever order, and held out together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import xxhash

from lianlu.data.dedup.near_dedup import bands, jaccard
from lianlu.data.rules.characters import Hashes
from lianlu.data.rules.textview import TextView

MIN_SHARED = 0.7
"""Share of the words of two texts, counted as often as they occur, from which on they are related."""
MAX_RELATED = 16
"""More texts than this that are alike are of one template, and each counts for itself."""
SAMPLE = 256
"""Words of a text that are compared: those of the lowest hashes, so that two texts are sampled alike."""


def relations(texts: Sequence[str]) -> list[int]:
    """For each text the number of the first one that it is related to, over others if need be; its own if to none."""
    firsts = list(range(len(texts)))
    samples = [_sample(text) for text in texts]
    known: dict[int, int] = {}
    for number, own in enumerate(samples):
        for key in bands(own).tolist() if len(own) else ():
            other = known.setdefault(key, number)
            if _first(firsts, other) != _first(firsts, number) and jaccard(own, samples[other]) >= MIN_SHARED:
                low, high = sorted((_first(firsts, other), _first(firsts, number)))
                firsts[high] = low
    found = [_first(firsts, number) for number in range(len(texts))]
    sizes = Counter(found)
    return [first if sizes[first] <= MAX_RELATED else number for number, first in enumerate(found)]


def _first(firsts: list[int], number: int) -> int:
    while firsts[number] != number:
        firsts[number] = firsts[firsts[number]]
        number = firsts[number]
    return number


def _sample(text: str) -> Hashes:
    counts = Counter(TextView(text).tokens())
    hashes = [xxhash.xxh3_64_intdigest(token.encode(), time) for token, count in counts.items() for time in range(count)]
    return np.unique(np.array(hashes, dtype=np.uint64))[:SAMPLE]
