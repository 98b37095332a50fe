"""Thresholds on signals: which rule, if any, a document breaks. Whole columns at once, so that deciding anew takes seconds.

Families are asked in the order of `STEPS`, their rules in the order of the columns, then fractions (`top_x`, `bottom_x`) in that
of their names, with the thresholds that they came to (`cuts`); the first that is broken counts. A value that is not there (NaN)
breaks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.data.rules.families import CODE as CODE_FAMILIES
from lianlu.data.rules.families import PROSE
from lianlu.data.rules.thresholds import Thresholds, Verdict
from lianlu.data.rules.top_fraction import Cut, is_fraction, value_of
from lianlu.data.scores.score import CODE

STEPS = ("language", *PROSE, *CODE_FAMILIES)
Column = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Kind = tuple[str, str, str]
"""Domain, script and language of a document: what its thresholds depend on."""


@dataclass(frozen=True)
class RuleValue:
    """One rule on one document: what was found, what is allowed (False: the rule is off), whether that breaks it.

    `note` says what fraction the threshold came from, if from one.
    """

    rule: str
    value: float | str
    threshold: Any
    broken: bool
    note: str = ""


@dataclass(frozen=True)
class Rules:
    """The families that are asked, their thresholds, and the languages to keep (none: all); what their fractions came to."""

    families: tuple[str, ...]
    thresholds: Thresholds
    languages: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()

    def bounds(self, kind: Kind, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Rules by name (`family.key`) with their thresholds, in the order they are asked; those turned off with False.

        `names` are those of the values that are there. A fraction takes the place of the bound on the same value.
        """
        for family in STEPS:
            if family in self.families and (family != "language" or self.languages):
                limits = self.thresholds.of(family, *kind)
                known = {name: name.partition(".")[2] for name in names if name.startswith(f"{family}.")}
                rules = [f"{family}.{key}" for key in sorted(filter(is_fraction, limits)) if limits[key] is not False]
                instead = {value_of(rule) for rule in rules}
                for name, key in known.items():
                    yield name, False if name in instead else limits.get(key, False)
                for rule in rules:
                    if value_of(rule) in known:
                        cut = self.cut(rule, kind)
                        yield rule, cut.threshold if cut else False

    def cut(self, rule: str, kind: Kind) -> Cut | None:
        """What a fraction came to for this kind of text; None where it is off or had no documents."""
        return self._cuts.get((rule, *self.group(rule, kind)))

    def group(self, rule: str, kind: Kind) -> tuple[str, str]:
        """The domain, and the language or script in it, whose documents a fraction is taken of together."""
        domain, script, lang = kind
        family, key = rule.split(".")
        return domain, self.thresholds.part(family, key, script, lang)

    @cached_property
    def _cuts(self) -> dict[tuple[str, str, str], Cut]:
        return {(cut.rule, cut.domain, cut.part): cut for cut in self.cuts}

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
        return first + [self._asked(name, kind, values[value_of(name)], limit) for name, limit in self.bounds(kind, known)]

    def _asked(self, rule: str, kind: Kind, value: float, limit: Any) -> RuleValue:
        cut = self.cut(rule, kind)
        broken = limit is not False and bool(is_broken(rule, value, limit))
        return RuleValue(rule, plain(value), limit, broken, cut.told if cut else "")


def decide(signals: Mapping[str, Column], kinds: Sequence[Kind], rules: Rules) -> list[Verdict | None]:
    """The first broken rule of each document, or None."""
    verdicts: list[Verdict | None] = [None] * len(kinds)
    for kind, rows in by_kind(kinds):
        if unwanted := rules.unwanted(kind):
            for row in rows:
                verdicts[row] = unwanted
            continue
        left = rows
        for name, limit in rules.bounds(kind, signals):
            if limit is not False:
                column = signals[value_of(name)]
                broken = is_broken(name, column[left], limit)
                for row in left[broken]:
                    verdicts[row] = Verdict(name, plain(float(column[row])), limit)
                left = left[~broken]
    return verdicts


def left_for(rule: str, signals: Mapping[str, Column], kinds: Sequence[Kind], rules: Rules) -> Iterator[tuple[Kind, Rows]]:
    """The documents that a rule is asked about, since they break none before it; nothing where it has no value or is off."""
    for kind, rows in by_kind(kinds):
        if rules.unwanted(kind):
            continue
        left = rows
        for name, limit in rules.bounds(kind, signals):
            if name == rule:
                yield kind, left
                break
            if limit is not False:
                left = left[~is_broken(name, signals[value_of(name)][left], limit)]


def by_kind(kinds: Sequence[Kind]) -> Iterator[tuple[Kind, Rows]]:
    """The rows of each kind of text."""
    rows: dict[Kind, list[int]] = {}
    for row, kind in enumerate(kinds):
        rows.setdefault(kind, []).append(row)
    for kind, own in rows.items():
        yield kind, np.array(own)


def is_broken(rule: str, value: float | Column, limit: float) -> Any:
    """Whether a value, or each of a column, is outside the bound of a rule."""
    return value < limit if rule.split(".")[1].startswith(("min_", "top_")) else value > limit


def plain(value: float) -> float:
    """A value as it is shown and recorded: whole numbers whole, others with four digits."""
    return int(value) if value.is_integer() else round(value, 4)
