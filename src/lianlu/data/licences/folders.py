"""The licence of a folder: which of its files tell it, and what they say together, as an SPDX expression.

Licence files are believed first. Where none is known, the field `license` of a package's manifest counts, or what a COPYRIGHT
file says. A manifest does not overrule a licence file, because many state whatever the tool that made them put there. Files
that list the licences of other people's code (LICENSE-THIRD-PARTY) count last: that code lies in folders of its own, as a rule.
"""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from lianlu.data.licences.expressions import NO_ASSERTION, all_of, any_of
from lianlu.data.licences.texts import licence_in
from lianlu.data.read.raw import language_of

_LICENCE_FILE = re.compile(
    r"(?:un)?(?:licen[cs]es?|copying|legal)(?:[-_.][\w.+-]{1,40})?"
    r"|(?:mit|isc|mpl|[al]?gpl|apache|bsd)[\w.]{0,10}[-_.]licen[cs]e(?:\.\w{1,8})?"
    r"|[\w-]{1,60}\.licen[cs]e",
    re.IGNORECASE,
)
_NO_TEXT = re.compile(r"\.(?:html?|rtf|docx?|spdx|png|svg|pdf)$", re.IGNORECASE)
_OF_OTHERS = re.compile(r"third|3rd|bundled|vendor", re.IGNORECASE)
_COPYRIGHT = re.compile(r"copyright(?:\.(?:txt|md|rst))?", re.IGNORECASE)
_FIELDS = {
    "package.json": ("license", "licenses"),
    "composer.json": ("license",),
    "cargo.toml": ("package.license", "workspace.package.license"),
    "pyproject.toml": ("project.license", "tool.poetry.license"),
}
"""Where manifests name a licence."""
_LONGEST_NAME = 100
_ELSEWHERE = re.compile(r"see licen[cs]e", re.IGNORECASE)
_GPL = re.compile(r"GPL-\S+")
_WORD = re.compile(r"[a-z]+")
_ALSO_CALLED = {"bsl": "boost"}


def is_licence_file(path: str) -> bool:
    """Whether a file's name is that of a licence: LICENSE, licence.md, COPYING, LICENSE-MIT, UNLICENSE; no source file's is."""
    name = posixpath.basename(path)
    return bool(_LICENCE_FILE.fullmatch(name)) and not _NO_TEXT.search(name) and not language_of(name)


def tells_licence(path: str) -> bool:
    """Whether a file may tell the licence of its folder: a licence file, or one that counts where there is none."""
    name = posixpath.basename(path)
    return is_licence_file(name) or name.lower() in _FIELDS or bool(_COPYRIGHT.fullmatch(name))


def licence_of_folder(texts: Mapping[str, str]) -> str:
    """The licence that the files of one folder tell, by their names: empty if none does, NOASSERTION if it cannot be told.

    Files called after their licences (LICENSE-MIT, LICENSE-APACHE) offer a choice; otherwise all of them hold.
    """
    files = [name for name in sorted(texts) if is_licence_file(name)]
    own = {name: found for name in files if not _OF_OTHERS.search(name) and (found := licence_in(texts[name]))}
    if own:
        return _together(own)
    said = all_of(_stated(name, texts[name]) for name in sorted(texts) if name not in files)
    others = all_of(licence_in(texts[name]) for name in files if _OF_OTHERS.search(name))
    return said or others or (NO_ASSERTION if files else "")


def _together(found: Mapping[str, str]) -> str:
    names = sorted(set(found.values()))
    if any(name.startswith("LGPL") for name in names):  # it stands on the GPL beside it; files under that alone say so
        names = [name for name in names if not _GPL.fullmatch(name)]
    is_choice = all(_is_called_after(file, licence) for file, licence in found.items())
    return any_of(names) if is_choice else all_of(names)


def _is_called_after(file: str, licence: str) -> bool:
    """Whether a file bears the first word of its licence's name: LICENSE-APACHE, COPYING.GPLv2, UNLICENSE."""
    families = [_ALSO_CALLED.get(word, word) for word in _WORD.findall(licence.lower())[:1]]
    return any(word.startswith(family) for family in families for word in _WORD.findall(file.lower()))


def _stated(name: str, text: str) -> str:
    """What a manifest states, whatever that is; what the words of another file say."""
    if name.lower() not in _FIELDS:
        return licence_in(text)
    try:
        table = json.loads(text) if name.lower().endswith(".json") else tomllib.loads(text)
        return next(filter(None, (_named(_at(table, field)) for field in _FIELDS[name.lower()])), "")
    except (ValueError, RecursionError):  # no manifest, or one that is damaged
        return ""


def _at(table: Any, field: str) -> Any:
    for key in field.split("."):
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _named(value: Any) -> str:
    """The expression in a field: a name, a table with one, a text, or a list of which one may be chosen."""
    if isinstance(value, list):
        return any_of(map(_named, value))
    if isinstance(value, dict):
        return _named(value.get("type") or value.get("text"))
    if not isinstance(value, str) or _ELSEWHERE.match(value):
        return ""
    name = re.sub(r"\s*/\s*", " OR ", " ".join(value.split()))
    return name if len(name) <= _LONGEST_NAME else licence_in(value)
