"""The best part of each domain by a score: DCLM and InternLM2 keep a top fraction, and what is good differs by domain.

`top_x = 0.3` keeps the 30 % of the documents with the highest x, in place of the bound `min_x`; `bottom_x` those with the lowest,
in place of `max_x`. A fraction holds for each domain by itself, and one that is set for a language or script for those documents
of each domain by themselves. It is taken of the documents that are left when the rule is asked (`scores.cuts`): after the
heuristics, before duplicates go. The score that comes out is the threshold; equal scores have equal fates, so that ties are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
VALUE_OF = {"top_": "min_", "bottom_": "max_"}
"""Which rule has the value that a fraction is taken by."""


@dataclass(frozen=True)
class Cut:
    """The threshold that a fraction came to: of `documents` in a domain, or the `part` of it in a language or script, `kept` are.

    Those that later rules take are among the kept.
    """

    rule: str
    domain: str
    part: str
    fraction: float
    threshold: float
    documents: int
    kept: int

    @property
    def told(self) -> str:
        """What is kept, in words: `top 30 % of web`, `bottom 80 % of zh in web`."""
        side = self.rule.split(".")[1].partition("_")[0]
        within = " in ".join(filter(None, (self.part, self.domain or "no domain")))
        return f"{side} {100 * self.fraction:.4g} % of {within}"


def is_fraction(key: str) -> bool:
    """Whether the bound of a rule (`top_quality`) is a fraction of the documents."""
    return key.startswith(tuple(VALUE_OF))


def value_of(rule: str) -> str:
    """The rule whose values a rule looks at: `filters.min_quality` for `filters.top_quality`, itself for all others."""
    family, _, key = rule.partition(".")
    for prefix, own in VALUE_OF.items():
        if key.startswith(prefix):
            return f"{family}.{own}{key.removeprefix(prefix)}"
    return rule


def threshold(scores: Iterable[Scores], fraction: float, is_top: bool) -> float:
    """The score of the last document that is kept, where a fraction in 0..1, rounded to documents and at least one, is.

    No score may be NaN, and one has to be there. It takes eight bytes a score beyond `scores`.
    """
    own = np.concatenate(list(scores))
    count = max(round(fraction * len(own)), 1)
    place = len(own) - count if is_top else count - 1
    own.partition(place)
    return float(own[place])
