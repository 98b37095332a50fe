"""SPDX expressions of licences: joined, and what they ask of others: permissive, weak, copyleft, unknown (`kinds.toml`).

Names in other spellings are understood where that is easy (`MIT License`, `["mit", "apache-2.0"]`, `MIT/Apache-2.0`), since
data sets and manifests use them. This is no legal advice: unusual licences come out as unknown. https://spdx.org/licenses
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

NO_ASSERTION = "NOASSERTION"
"""SPDX's name for a licence that is stated but cannot be told."""
PERMISSIVE, WEAK, COPYLEFT, UNKNOWN = "permissive", "weak", "copyleft", "unknown"
_KINDS = (PERMISSIVE, WEAK, COPYLEFT, UNKNOWN)
_BRACKETS = re.compile(r"\(([^()]*)\)")
_AND, _OR, _WITH = (re.compile(rf"\s+{word}\s+", re.IGNORECASE) for word in ("AND", "OR", "WITH"))
_SUFFIX = re.compile(r"-(?:only|or-later)$|\+$")
_WORDS_OF_NAMES = re.compile(r"\b(?:the|software|public licen[cs]e|licen[cs]e|version|v(?=\d))\b\s*,?")


def all_of(expressions: Iterable[str]) -> str:
    """Several expressions joined with AND, each name once."""
    whole = [one for one in expressions if one]
    each = dict.fromkeys(part for one in whole for part in ([one] if _OR.search(one) else _AND.split(one)))
    return " AND ".join(f"({one})" if _OR.search(one) and len(each) > 1 else one for one in each)


def any_of(expressions: Iterable[str]) -> str:
    """Several expressions joined with OR, each once."""
    return " OR ".join(dict.fromkeys(one for one in expressions if one))


def terms(expression: str) -> int:
    """What a licence asks for as a number: 0 permissive or none stated, 1 weak, 2 copyleft, 3 stated but unknown."""
    return _KINDS.index(kind_of(expression)) if expression else 0


def kind_of(expression: str) -> str:
    """Permissive, weak, copyleft or unknown: of an OR the freest, of an AND the strictest, unknown parts counting as such."""
    if expression.startswith("["):  # a list of names, as data sets have them
        expression = " AND ".join(re.sub(r"[\[\]\"']", "", expression).split(","))
    while (inner := _BRACKETS.search(expression)) is not None:
        expression = expression.replace(inner[0], kind_of(inner[1]))
    choices = (choice for part in expression.split("/") for choice in _OR.split(part))
    return _KINDS[min(max(map(_kind, _AND.split(choice))) for choice in choices)]


def _kind(name: str) -> int:
    plain = _SUFFIX.sub("", _WITH.split(name)[0].strip(" ()").lower())
    plain = "-".join(_WORDS_OF_NAMES.sub("", plain).split())
    return _KINDS.index(plain if plain in _KINDS else _kinds().get(plain, UNKNOWN))


@cache
def _kinds() -> dict[str, str]:
    """What each licence asks, by its name in lower case."""
    table = tomllib.loads(files("lianlu.data.licences").joinpath("kinds.toml").read_text(encoding="utf-8"))
    return {name.lower(): kind for kind, names in table.items() for name in names}
