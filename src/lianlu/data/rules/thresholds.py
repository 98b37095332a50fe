"""Thresholds of the rules, and the verdict of a rule that is broken.

The values live in `rules.toml` and `long_text.toml` beside this file: one table per family, one key per rule. A key `min_x`
or `max_x` is the bound on x; `false` turns a rule off. A table inside a family (`[c4.docs]`, `[gopher_quality.cjk]`) holds what
differs for a domain, a script or a language; where several apply, language wins over script over domain.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lianlu.core.config import Table, merge
from lianlu.core.errors import ConfigError

Limits = Mapping[str, Any]
TABLES = ("rules.toml", "long_text.toml")
LINE_RULES = (
    "min_words_per_line", "max_word_length", "max_javascript_lines", "max_policy_lines", "max_lines_without_end_mark",
    "max_uppercase_letters", "max_numeric_lines", "max_counter_lines",
)  # fmt: skip
"""Rules of C4 and RefinedWeb that take out lines instead of dropping documents."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A broken rule: its name as `family.key`, the value found, and the threshold it broke."""

    rule: str
    value: float | str
    threshold: float | str


def broken(family: str, limits: Limits, values: Iterable[tuple[str, float]]) -> Verdict | None:
    """The first rule whose value is outside its bound; `values` is consumed no further than that."""
    for key, value in values:
        limit = limits.get(key, False)
        if limit is not False and (value < limit if key.startswith("min_") else value > limit):
            return Verdict(f"{family}.{key}", round(value, 4), limit)
    return None


@cache
def shipped() -> Table:
    """The table that comes with lianlu."""
    tables = (files("lianlu.data.rules").joinpath(name).read_text(encoding="utf-8") for name in TABLES)
    return {family: table for text in tables for family, table in tomllib.loads(text).items()}


def with_shipped(changes: Mapping[str, Any]) -> Table:
    """The shipped table with a user's changes laid on it.

    Raises: ConfigError for an unknown family or rule, or a value of another type.
    """
    for family, table in changes.items():
        known = shipped().get(family)
        if known is None or not isinstance(table, Mapping):
            raise ConfigError(f"unknown family of rules thresholds.{family}{_near(family, shipped())}", hint=_families())
        names = _rule_names(known)
        for key, value in table.items():
            inner = value.items() if isinstance(value, Mapping) else [(key, value)]
            for name, limit in inner:
                _check(family, name, limit, names)
    return merge(shipped(), changes)


def _rule_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """Every rule of a family with a sample value: those of the family itself and of the tables inside it."""
    names: dict[str, Any] = {}
    for key, value in table.items():
        for name, sample in value.items() if isinstance(value, Mapping) else [(key, value)]:
            if name not in names or names[name] is False:
                names[name] = sample
    return names


def _check(family: str, name: str, value: Any, names: Mapping[str, Any]) -> None:
    if name not in names:
        raise ConfigError(f"unknown rule thresholds.{family}.{name}{_near(name, names)}", hint=f"rules: {', '.join(names)}")
    wanted = list if isinstance(names[name], list) else (int, float)
    if value is not False and (not isinstance(value, wanted) or value is True):
        raise ConfigError(
            f"thresholds.{family}.{name} is {value!r}",
            hint="give a list" if wanted is list else "give a number, or false to turn it off",
        )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _families() -> str:
    return f"families: {', '.join(shipped())}"


class Thresholds:
    """The table of one run, asked by family and kind of text."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known: dict[tuple[str, ...], Limits] = {}

    def of(self, family: str, domain: str = "", script: str = "", lang: str = "") -> Limits:
        """What holds for texts of this domain, script and language."""
        key = (family, domain, script, lang)
        if key not in self._known:
            table = self._table[family]
            limits = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
            for kind in (domain, script, lang):
                limits.update(table.get(kind) or {} if isinstance(table.get(kind), Mapping) else {})
            self._known[key] = limits
        return self._known[key]

    def of_scores(self) -> Table:
        """The part that scores depend on: lists, lengths, and the bounds of rules for lines, which edit the text."""
        return {family: _scoring(table) for family, table in self._table.items()}


def _scoring(table: Mapping[str, Any]) -> Table:
    return {
        key: _scoring(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if key in LINE_RULES or not key.startswith(("min_", "max_"))
    }
