"""Thresholds on signals: which rule, if any, a document breaks. Whole columns at once, so that deciding anew takes seconds.

Families are asked in the order of `STEPS`, their rules in the order of the columns; the first that is broken counts. A value
that is not there (NaN) breaks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lianlu.data.score import CODE
from lianlu.data.thresholds import Thresholds, Verdict

STEPS = ("language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "code")
Column = npt.NDArray[np.float64]
Kind = tuple[str, str, str]


@dataclass(frozen=True)
class Rules:
    """The families that are asked, their thresholds, and the languages to keep (none: all)."""

    families: tuple[str, ...]
    thresholds: Thresholds
    languages: tuple[str, ...] = ()


def decide(signals: Mapping[str, Column], kinds: Sequence[Kind], rules: Rules) -> list[Verdict | None]:
    """The first broken rule of each document, or None; `kinds` are their domains, scripts and languages."""
    verdicts: list[Verdict | None] = [None] * len(kinds)
    rows: dict[Kind, list[int]] = {}
    for row, kind in enumerate(kinds):
        rows.setdefault(kind, []).append(row)
    for kind, own in rows.items():
        open_rows = np.array(own)
        for family in STEPS:
            if family in rules.families:
                open_rows = _judged(family, kind, signals, open_rows, rules, verdicts)
    return verdicts


def _judged(
    family: str,
    kind: Kind,
    signals: Mapping[str, Column],
    rows: npt.NDArray[np.int64],
    rules: Rules,
    verdicts: list[Verdict | None],
) -> npt.NDArray[np.int64]:
    """Ask one family about documents of one kind; returns those that broke nothing."""
    domain, _, lang = kind
    if family == "language":
        if domain == CODE or not rules.languages:
            return rows
        if lang not in rules.languages:
            for row in rows:
                verdicts[row] = Verdict("language.allowed", lang, " ".join(rules.languages))
            return rows[:0]
    limits = rules.thresholds.of(family, *kind)
    for name, column in signals.items():
        key = name.removeprefix(f"{family}.")
        limit = limits.get(key, False)
        if key == name or limit is False:
            continue
        bad = column[rows] < limit if key.startswith("min_") else column[rows] > limit
        for row in rows[bad]:
            verdicts[row] = Verdict(name, _plain(float(column[row])), limit)
        rows = rows[~bad]
    return rows


def _plain(value: float) -> float:
    return int(value) if value.is_integer() else round(value, 4)
