"""Licences of source files and repositories, as SPDX expressions, and what they ask: permissive, weak, copyleft, unknown.

Three places are looked at: an `SPDX-License-Identifier` in the head of a file; the words of a licence there or in a licence
file, by how many three-word runs of its phrases occur (`licences.toml`); the field `license` of a package's manifest. Line
breaks, comment marks and punctuation do not matter. A text may hold several licences. This is no legal advice: unusual
licences come out as unknown.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lianlu.data.code.tree import ancestors, folder_of
from lianlu.data.read.sources import language_of

PERMISSIVE, WEAK, COPYLEFT, UNKNOWN = "permissive", "weak", "copyleft", "unknown"
_KINDS = (PERMISSIVE, WEAK, COPYLEFT, UNKNOWN)
MIN_SIMILARITY = 0.8
"""A phrase is there when this share of its three-word runs is."""
HEAD_CHARS = 4000
_MAX_CHARS = 100_000
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() \t-]+)")
_EXPRESSION = re.compile(r"[( \t]*[\w.+-]+[ \t)]*(?:(?:AND|OR|WITH)[( \t]+[\w.+-]+[ \t)]*)*")
_WORD = re.compile(r"\w+(?:\.\w+)*")
_LICENCE_FILE = re.compile(r"(?:un)?licen[cs]es?(?:[-_.].*)?|copying(?:[-_.].*)?|.*\.licen[cs]e", re.IGNORECASE)
_MANIFEST = re.compile(r"^\s*\"?license\"?\s*[:=]\s*(?:\{\s*text\s*=\s*)?[\"']([^\"'\n]+)[\"']", re.MULTILINE)
_MANIFESTS = {"package.json", "pyproject.toml", "cargo.toml", "composer.json", "setup.cfg"}
_COMMENT_MARK = re.compile(r"(?m)^[\s#*/;%!<>|-]+")
_HINT = re.compile(r"licen[cs]e|permission|redistribution|public domain|cc0")
_BRACKETS = re.compile(r"\(([^()]*)\)")
_SUFFIX = re.compile(r"-(?:only|or-later)$|\+$")
_AND = re.compile(r"\s+AND\s+", re.IGNORECASE)
_WORDS_OF_NAMES = re.compile(r"\b(?:the|software|public licen[cs]e|licen[cs]e|version|v(?=\d))\b\s*,?")


_Runs = frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class _Known:
    name: str
    kind: str
    phrases: tuple[str, ...]
    absent: tuple[str, ...]
    similarity: float


@cache
def _table() -> list[_Known]:
    table = tomllib.loads(files("lianlu.data.code").joinpath("licences.toml").read_text(encoding="utf-8"))
    return [
        _Known(
            name.partition("#")[0],
            row["class"],
            tuple(row["phrases"]),
            tuple(row.get("absent", ())),
            row.get("similarity", MIN_SIMILARITY),
        )
        for name, row in table.items()
    ]


@cache
def _classes() -> dict[str, str]:
    """What each licence asks, by its name in lower case; those that are known by name alone too."""
    names = tomllib.loads(files("lianlu.data.code").joinpath("licence_names.toml").read_text(encoding="utf-8"))
    return {known.name.lower(): known.kind for known in _table()} | {
        name.lower(): kind for kind, own in names.items() for name in own
    }


def in_text(text: str) -> str:
    """The licence that a text states or contains, as an SPDX expression; several are joined with AND; empty if none is known."""
    if stated := _SPDX.search(text[:HEAD_CHARS]):
        expression = _EXPRESSION.match(stated[1])
        return " ".join(expression[0].split()) if expression else ""
    plain = _COMMENT_MARK.sub("", text[:_MAX_CHARS]).lower()
    if not _HINT.search(plain):
        return ""
    words = _WORD.findall(plain)
    runs = frozenset(zip(words, words[1:], words[2:], strict=False))
    whole = " ".join(words)
    found = [known for known in _table() if _has(known, runs, whole)]
    return all_of(known.name for known in found if not _is_part(known, found))


def _has(known: _Known, runs: _Runs, whole: str) -> bool:
    exact = known.similarity == 1
    there = all(phrase in whole if exact else _similarity(phrase, runs) >= known.similarity for phrase in known.phrases)
    return there and not any(_similarity(phrase, runs) >= MIN_SIMILARITY for phrase in known.absent)


@cache
def _runs(phrase: str) -> _Runs:
    words = phrase.split()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def _similarity(phrase: str, runs: _Runs) -> float:
    """Share of the phrase's three-word runs among those of the text."""
    wanted = _runs(phrase)
    return len(wanted & runs) / max(len(wanted), 1)


def _is_part(known: _Known, found: list[_Known]) -> bool:
    """Whether all that speaks for a licence speaks for another one as well, which has more."""
    return any(set(known.phrases) < set(other.phrases) for other in found)


def is_licence_file(path: str) -> bool:
    """Whether a file's name says that it holds a licence: LICENSE, COPYING, LICENCE-MIT.txt, ...; no source file does."""
    return bool(_LICENCE_FILE.fullmatch(posixpath.basename(path))) and not language_of(path)


def of_files(texts: Mapping[str, str]) -> dict[str, str]:
    """The licence of each file of a repository: its own, else that of the nearest folder above it that states one.

    Of a folder the manifest is believed first; several licence files in one folder all hold.
    """
    folders: dict[str, str] = {}
    for path in sorted(texts):
        if is_licence_file(path) and (found := in_text(texts[path])):
            folder = folder_of(path)
            folders[folder] = all_of([folders[folder], found] if folder in folders else [found])
    folders |= {folder_of(path): found for path in sorted(texts) if (found := _declared(path, texts[path]))}
    return {path: in_text(text[:HEAD_CHARS]) or _above(path, folders) for path, text in texts.items()}


def _declared(path: str, text: str) -> str:
    if posixpath.basename(path).lower() not in _MANIFESTS:
        return ""
    stated = _MANIFEST.search(text)
    return stated[1].strip() if stated and kind_of(stated[1]) != UNKNOWN else ""


def _above(path: str, folders: Mapping[str, str]) -> str:
    return next((folders[folder] for folder in ancestors(folder_of(path)) if folder in folders), "")


def all_of(expressions: Iterable[str]) -> str:
    """Several expressions joined with AND, each once."""
    each = dict.fromkeys(expressions)
    return " AND ".join(f"({one})" if " OR " in one and len(each) > 1 else one for one in each)


def of_file(text: str, given: str = "") -> str:
    """The licence of a file: the one its head states if `given`, that of the repository, is unknown or asks for less."""
    own, given = in_text(text[:HEAD_CHARS]), given if given.strip("[] ") else ""
    is_known = kind_of(given) != UNKNOWN
    return own if own and (not is_known or terms(own) > terms(given)) else given


def terms(expression: str) -> int:
    """What a licence asks for as a number: 0 permissive or none stated, 1 weak, 2 copyleft, 3 stated but unknown."""
    return _KINDS.index(kind_of(expression)) if expression else 0


def kind_of(expression: str) -> str:
    """Permissive, weak, copyleft or unknown: of an OR the freest, of an AND the strictest, unknown parts counting as such."""
    if expression.startswith("["):  # a list of names, as data sets have them
        expression = " AND ".join(re.sub(r"[\[\]\"']", "", expression).split(","))
    while (inner := _BRACKETS.search(expression)) is not None:
        expression = expression.replace(inner[0], kind_of(inner[1]))
    parts = re.split(r"\s+OR\s+|/", expression, flags=re.IGNORECASE)
    return _KINDS[min(max(map(_kind, _AND.split(part))) for part in parts)]


def _kind(name: str) -> int:
    plain = _SUFFIX.sub("", re.split(r"\s+WITH\s+", name, flags=re.IGNORECASE)[0].strip(" ()").lower())
    plain = "-".join(_WORDS_OF_NAMES.sub("", plain).split())
    return _KINDS.index(plain if plain in _KINDS else _classes().get(plain, UNKNOWN))
