"""Thresholds that could not do what they say are refused, before hours are spent on scores.

They are for a filter or a model that is not given, or are bounds where a fraction of the same score is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lianlu.core.errors import ConfigError
from lianlu.data.filters.linear_filter import load
from lianlu.data.rules.thresholds import FILTERS, Thresholds
from lianlu.data.rules.top_fraction import VALUE_OF, is_fraction, value_of

PERPLEXITY = "perplexity"
BOUNDS = tuple(VALUE_OF.values())


def check_given(thresholds: Thresholds, families: Sequence[str], filters: Sequence[str], model: str) -> None:
    """Look at the thresholds of a run that differ from the shipped ones, and at the filters it names.

    Raises: ConfigError if one is for a filter that is not given, or is the wrong way round for it, or has no effect beside a
    fraction, or if two filters have one name; DataError if a filter cannot be read.
    """
    keys = _keys(filters)
    for family in filter(families.__contains__, (FILTERS, PERPLEXITY)):
        for table, key in thresholds.changed(family):
            where = ".".join(filter(None, ("thresholds", family, table, key)))
            if family == FILTERS and (key.startswith(BOUNDS) or is_fraction(key)):
                _check_filter(where, key, keys)
            if family == PERPLEXITY and not model:
                hint = "name a checkpoint, or counts of bytes: model=FILE"
                raise ConfigError(f"{where} is set and no model is given", hint=hint)
            for fraction, value in thresholds.of(family, table).items():
                if is_fraction(fraction) and value is not False and value_of(f"{family}.{fraction}") == f"{family}.{key}":
                    hint = f"leave out one of them; {fraction}=false in the same table turns that off there"
                    raise ConfigError(f"{where} has no effect, since {fraction} = {value:g} takes its place", hint=hint)


def _keys(filters: Sequence[str]) -> dict[str, str]:
    """The rule of each filter by the filter's name."""
    keys: dict[str, str] = {}
    for path in filters:
        own = load(Path(path))
        if own.name in keys:
            hint = "give one of them, or train it under another --name"
            raise ConfigError(f"two of the filters are called {own.name}, {path} is one of them", hint=hint)
        keys[own.name] = own.key
    return keys


def _check_filter(where: str, key: str, keys: Mapping[str, str]) -> None:
    name = key.partition("_")[2]
    if name not in keys:
        given = f"given are {', '.join(sorted(keys))}" if keys else 'none is given: say filters=["FILE"]'
        hint = f"{given}; lianlu data train-filter SEEDS --out FILE --name {name} makes one"
        raise ConfigError(f"{where} is set and no filter called {name} is given", hint=hint)
    if value_of(f"{FILTERS}.{key}") != f"{FILTERS}.{keys[name]}":
        side, right = ("high", "max_ and bottom_") if keys[name].startswith("max_") else ("low", "min_ and top_")
        raise ConfigError(
            f"{where} would drop what {name} wants kept", hint=f"{side} scores of {name} are dropped: {right} are its rules"
        )
