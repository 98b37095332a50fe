"""Thresholds of the rules, and the verdict of a rule that is broken.

The values live in `rules.toml` and `long_text.toml` beside this file: one table per family, one key per rule. A key `min_x`
or `max_x` is the bound on x, `top_x` or `bottom_x` the fraction of documents that is kept by x (`top_fraction`); `false` turns a
rule off. A table inside a family (`[c4.docs]`, `[gopher_quality.cjk]`) holds what differs for a domain, a script or a language;
where several apply, language wins over script over domain.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lianlu.core.config import Table, merge
from lianlu.core.errors import ConfigError
from lianlu.data.rules.top_fraction import is_fraction

Limits = Mapping[str, Any]
TABLES = ("rules.toml", "long_text.toml")
LINE_RULES = (
    "min_words_per_line", "max_word_length", "max_javascript_lines", "max_policy_lines", "max_lines_without_end_mark",
    "max_uppercase_letters", "max_numeric_lines", "max_counter_lines",
)  # fmt: skip
"""Rules of C4 and RefinedWeb that take out lines instead of dropping documents."""
FILTERS = "filters"
_OF_A_FILTER = re.compile(r"(min|max|top|bottom)_[^\W\d]\w*")


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
    if name not in names and not (family == FILTERS and _OF_A_FILTER.fullmatch(name)):  # a filter may have any name
        raise ConfigError(f"unknown rule thresholds.{family}.{name}{_near(name, names)}", hint=f"rules: {', '.join(names)}")
    wanted: Any = list if isinstance(names.get(name), list) else (int, float)
    if value is not False and (not isinstance(value, wanted) or value is True):
        raise ConfigError(
            f"thresholds.{family}.{name} is {value!r}",
            hint="give a list" if wanted is list else "give a number, or false to turn it off",
        )
    if is_fraction(name) and value is not False and not 0 < float(value) <= 1:
        hint = "give the part to keep, above 0 and up to 1, for example 0.3; false turns it off"
        raise ConfigError(f"thresholds.{family}.{name} is {value!r}, which is no fraction of the documents", hint=hint)


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

    def changed(self, family: str) -> Iterator[tuple[str, str]]:
        """The rules that are on and differ from the shipped ones: the table in the family (empty: its own), and the key."""
        before = shipped()[family]
        for name, own in self._tables(family):
            old = before.get(name, {}) if name else before
            yield from ((name, key) for key, value in own.items() if value is not False and value != old.get(key))

    def fractions(self, family: str) -> dict[str, list[str]]:
        """The `top_x` and `bottom_x` that are set, in the order they are asked; the tables that set them (empty: its own)."""
        found: dict[str, list[str]] = {}
        for name, own in self._tables(family):
            for key in own:
                if is_fraction(key) and own[key] is not False:
                    found.setdefault(key, []).append(name)
        return dict(sorted(found.items()))

    def _tables(self, family: str) -> list[tuple[str, Limits]]:
        """The rules of a family by table: its own, then those for some texts."""
        table = self._table[family]
        inner = [(name, own) for name, own in table.items() if isinstance(own, Mapping)]
        return [("", {key: value for key, value in table.items() if not isinstance(value, Mapping)}), *inner]

    def part(self, family: str, key: str, script: str, lang: str) -> str:
        """The language or script that a rule of a text is set for; empty: its domain, or all texts."""
        tables = ((name, self._table[family].get(name)) for name in (lang, script) if name)
        return next((name for name, own in tables if isinstance(own, Mapping) and key in own), "")

    def of_scores(self) -> Table:
        """The part that scores depend on: lists, lengths, and the bounds of rules for lines, which edit the text."""
        return {family: _scoring(table) for family, table in self._table.items()}


def _scoring(table: Mapping[str, Any]) -> Table:
    own = {
        key: _scoring(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if key in LINE_RULES or not (key.startswith(("min_", "max_")) or is_fraction(key))
    }
    return {key: value for key, value in own.items() if value != {}}  # a table of bounds alone is as good as none
