"""Thresholds on signals: which rule, if any, a document breaks. Whole columns at once, so that deciding anew takes seconds.

Families are asked in the order of `STEPS`, their rules in the order of the columns; the first that is broken counts. A value
that is not there (NaN) breaks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.data.rules.families import CODE as CODE_FAMILIES
from lianlu.data.rules.families import PROSE
from lianlu.data.rules.thresholds import Thresholds, Verdict
from lianlu.data.scores.score import CODE

STEPS = ("language", *PROSE, *CODE_FAMILIES)
Column = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Kind = tuple[str, str, str]
"""Domain, script and language of a document: what its thresholds depend on."""


@dataclass(frozen=True)
class RuleValue:
    """One rule on one document: what was found, what is allowed (False: the rule is off), whether that breaks it."""

    rule: str
    value: float | str
    threshold: Any
    broken: bool


@dataclass(frozen=True)
class Rules:
    """The families that are asked, their thresholds, and the languages to keep (none: all)."""

    families: tuple[str, ...]
    thresholds: Thresholds
    languages: tuple[str, ...] = ()

    def bounds(self, kind: Kind, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Rules by name (`family.key`) with their thresholds, in the order they are asked; those turned off with False."""
        for family in STEPS:
            if family in self.families and (family != "language" or self.languages):
                limits = self.thresholds.of(family, *kind)
                for name in names:
                    own, key = name.split(".")
                    if own == family:
                        yield name, limits.get(key, False)

    def unwanted(self, kind: Kind) -> Verdict | None:
        """Whether a document is in none of the languages to keep."""
        domain, _, lang = kind
        if "language" not in self.families or domain == CODE or not self.languages or lang in self.languages:
            return None
        return Verdict("language.allowed", lang, " ".join(self.languages))

    def asked(self, kind: Kind, values: Mapping[str, float]) -> list[RuleValue]:
        """Every rule that has a value, for one document."""
        verdict = self.unwanted(kind)
        first = [RuleValue(verdict.rule, verdict.value, verdict.threshold, True)] if verdict else []
        known = [name for name, value in values.items() if not np.isnan(value)]
        return first + [
            RuleValue(name, plain(values[name]), limit, limit is not False and bool(is_broken(name, values[name], limit)))
            for name, limit in self.bounds(kind, known)
        ]


def decide(signals: Mapping[str, Column], kinds: Sequence[Kind], rules: Rules) -> list[Verdict | None]:
    """The first broken rule of each document, or None."""
    verdicts: list[Verdict | None] = [None] * len(kinds)
    rows: dict[Kind, list[int]] = {}
    for row, kind in enumerate(kinds):
        rows.setdefault(kind, []).append(row)
    for kind, own in rows.items():
        if unwanted := rules.unwanted(kind):
            for row in own:
                verdicts[row] = unwanted
            continue
        left: Rows = np.array(own)
        for name, limit in rules.bounds(kind, signals):
            if limit is not False:
                broken = is_broken(name, signals[name][left], limit)
                for row in left[broken]:
                    verdicts[row] = Verdict(name, plain(float(signals[name][row])), limit)
                left = left[~broken]
    return verdicts


def is_broken(rule: str, value: float | Column, limit: float) -> Any:
    """Whether a value, or each of a column, is outside the bound of a rule."""
    return value < limit if rule.split(".")[1].startswith("min_") else value > limit


def plain(value: float) -> float:
    """A value as it is shown and recorded: whole numbers whole, others with four digits."""
    return int(value) if value.is_integer() else round(value, 4)
