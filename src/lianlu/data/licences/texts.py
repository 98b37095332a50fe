"""The licence that a text states or contains, as an SPDX expression.

An `SPDX-License-Identifier` in its head says it; else the words of all licences are looked for (`texts.toml`), so that a
text may hold several. The same is asked of licence files and of the heads of source files: comment marks do not matter.
The GNU licences' texts do not say whether later versions are allowed, so they have the short names.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lianlu.data.licences.expressions import UNKNOWN, all_of, kind_of, terms

HEAD_CHARS = 4000
"""Where a source file says what its licence is."""
MAX_BYTES = 100_000
"""Of licence files no more is read."""
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() \t-]+)")
_EXPRESSION = re.compile(r"[( \t]*[\w.+-]+[ \t)]*(?:(?:AND|OR|WITH)[( \t]+[\w.+-]+[ \t)]*)*")
_HINT = re.compile(r"licen[cs]e|permission|redistribution|public domain|attribution|cc0")
_NO_WORD = re.compile(r"[\W_]+")
_COMMONS = re.compile(
    r"creativecommons\.org/(licenses/(by(?:-nc)?(?:-nd|-sa)?)/(\d\.\d)|publicdomain/(zero|mark)/1\.0)", re.IGNORECASE
)
_Runs = frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class _Known:
    """One row of the table, its phrases as `_plain` has them."""

    name: str
    phrases: tuple[str, ...]
    absent: tuple[str, ...]
    similarity: float


@cache
def _table() -> list[_Known]:
    table = tomllib.loads(files("lianlu.data.licences").joinpath("texts.toml").read_text(encoding="utf-8"))
    return [
        _Known(
            row["name"], tuple(map(_plain, row["phrases"])), tuple(map(_plain, row.get("absent", ()))), row.get("similarity", 1)
        )
        for row in table["text"]
    ]


def _plain(text: str) -> str:
    """Words in lower case with one space around each."""
    return f" {_NO_WORD.sub(' ', text.lower()).strip()} "


def licence_in(text: str) -> str:
    """The licence of a text; several are joined with AND; empty if none is known."""
    if stated := _TAG.search(text[:HEAD_CHARS]):
        expression = _EXPRESSION.match(stated[1])
        return " ".join(expression[0].split()) if expression else ""
    text = text[:MAX_BYTES].lower()
    if not _HINT.search(text):
        return ""
    whole = _plain(text)
    runs = _runs(whole)
    return all_of(known.name for known in _table() if _holds(whole, runs, known))


def _holds(whole: str, runs: _Runs, known: _Known) -> bool:
    if known.similarity == 1:
        there = all(phrase in whole for phrase in known.phrases)
    else:
        there = all(_share(phrase, runs) >= known.similarity for phrase in known.phrases)
    return there and not any(phrase in whole for phrase in known.absent)


def _runs(plain: str) -> _Runs:
    words = plain.split()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


_wanted = cache(_runs)


def _share(phrase: str, runs: _Runs) -> float:
    """Share of a phrase's three-word runs among those of a text."""
    wanted = _wanted(phrase)
    return len(wanted & runs) / max(len(wanted), 1)


def licence_of_file(text: str, given: str = "") -> str:
    """The licence of a file: the one its head states if `given`, that of the repository, is unknown or asks for less."""
    own, given = licence_in(text[:HEAD_CHARS]), given if given.strip("[] ") else ""
    is_known = kind_of(given) != UNKNOWN
    return own if own and (not is_known or terms(own) > terms(given)) else given


def licence_of_link(url: str) -> str:
    """The licence behind the address of a Creative Commons licence; empty for any other address."""
    found = _COMMONS.search(url)
    if not found:
        return ""
    if found[4]:
        return "CC0-1.0" if found[4].lower() == "zero" else "LicenseRef-public-domain"
    return f"CC-{found[2].upper()}-{found[3]}"
