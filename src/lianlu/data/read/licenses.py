"""The SPDX name of a licence file, from phrases that only that licence has (`licenses.toml`).

What cannot be told is `NOASSERTION`, as SPDX calls it. The GNU licences' texts do not say whether later versions are allowed,
so they get the short names. Names: https://spdx.org/licenses.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources

UNKNOWN = "NOASSERTION"
MAX_BYTES = 100_000
_NAME = re.compile(r"(?:un)?(?:licen[cs]e|copying|legal)(?:[-_.][\w.+-]{1,30})?", re.IGNORECASE)
_NO_TEXT = re.compile(r"\.(?:py|js|ts|go|rs|java|c|h|cpp|rb|php|sh|html?|json|ya?ml|toml|xml|spdx|png|svg|pdf)$", re.IGNORECASE)
_TAG = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]{2,100})")
_COMMONS = re.compile(
    r"creativecommons\.org/(licenses/(by(?:-nc)?(?:-nd|-sa)?)/(\d\.\d)|publicdomain/(zero|mark)/1\.0)", re.IGNORECASE
)
_NO_WORD = re.compile(r"[\W_]+")


def is_license_name(name: str) -> bool:
    """Whether a file's name (without folders) is that of a licence: LICENSE, LICENCE.md, COPYING, LICENSE-MIT, UNLICENSE."""
    return bool(_NAME.fullmatch(name)) and not _NO_TEXT.search(name)


@cache
def _phrases() -> list[tuple[str, tuple[str, ...]]]:
    table = tomllib.loads((resources.files("lianlu.data.read") / "licenses.toml").read_text(encoding="utf-8"))
    return [(name, tuple(map(_plain, phrases))) for name, phrases in table.items()]


def _plain(text: str) -> str:
    return f" {_NO_WORD.sub(' ', text.lower()).strip()} "


def identify(text: str) -> str:
    """The SPDX name of one licence text, or `NOASSERTION`."""
    if tag := _TAG.search(text[:1000]):
        return tag[1].strip()
    plain = _plain(text[:MAX_BYTES])
    return next((name for name, phrases in _phrases() if all(phrase in plain for phrase in phrases)), UNKNOWN)


def of_files(texts: Mapping[str, str]) -> str:
    """The SPDX expression for the licence files of one folder, by their names.

    Files called after their licences (LICENSE-MIT, LICENSE-APACHE) offer a choice; otherwise all of them hold.
    """
    found = {name: identify(text) for name, text in sorted(texts.items()) if text.strip()}
    names = sorted(set(found.values()) - {UNKNOWN}) or [UNKNOWN]
    if any(name.startswith("LGPL") for name in names):  # it is a supplement, whose base lies beside it
        names = [name for name in names if not re.match(r"GPL-", name)]
    choice = all(re.match(r"(?i)licen[cs]e[-_.]\w", name) for name in found)
    return (" OR " if choice else " AND ").join(names)


def of_link(url: str) -> str:
    """The SPDX name behind the address of a Creative Commons licence; empty for any other address."""
    found = _COMMONS.search(url)
    if not found:
        return ""
    if found[4]:
        return "CC0-1.0" if found[4].lower() == "zero" else "LicenseRef-public-domain"
    return f"CC-{found[2].upper()}-{found[3]}"
