"""What stands before a text and tells about it: front matter in YAML (`---`) or TOML (`+++`), link lines (`[#]: key: value`),
header lines as in mail (`Title: ...`, at the head of Python enhancement proposals) and reStructuredText's field lists.

It is taken out of the text and kept in `meta["front_matter"]`; date, address and licence also go where every document has
them. What does not parse stays in the text, as it was. YAML values are kept as written: no dates, no octal numbers, no aliases.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from lianlu.data.read.plain import plain
from lianlu.formats.documents import Document

MAX_CHARS = 20_000
MAX_DEPTH = 20
_FENCED = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_LINKED = re.compile(r"\A(?:\[#\]:[^\n]*+\n)+")
_LINK = re.compile(r"\[#\]:([^\n]*)")
# quantifiers that never give back (`++`): a long head that turns out to be none must not be tried again in all its parts
_HEADED = re.compile(r"\A(?:[A-Z][\w-]{1,30}:[^\n]*+\n(?:[ \t]++\S[^\n]*+\n)*){3,}(?=[ \t]*\n)")
_HEADER = re.compile(r"^([A-Z][\w-]{1,30}):([^\n]*+(?:\n[ \t]++\S[^\n]*+)*)", re.MULTILINE)
_LISTED = re.compile(r"\A(?::[A-Za-z][\w -]{0,30}:(?:[ \t][^\n]*+)?\n(?:[ \t]++\S[^\n]*+\n)*)+(?=[ \t]*\n)")
_LIST = re.compile(r"^:([A-Za-z][\w -]{0,30}):([^\n]*+(?:\n[ \t]++\S[^\n]*+)*)", re.MULTILINE)
_TELLING = {"title", "subject", "author", "authors", "date", "created", "version", "license", "licence", "status", "url"}
DATES = ("date", "published", "publishdate", "pubdate", "created", "updated", "lastmod")
URLS = ("url", "canonical_url", "canonical", "permalink", "link", "via", "from")
LICENCES = ("license", "licence", "copyright_license")


def split(text: str) -> tuple[dict[str, Any], str]:
    """What a text tells about itself, by names in small letters, and the text without it; ({}, text) if it tells nothing."""
    head = text[:MAX_CHARS].removeprefix("\ufeff")
    cut = len(text[:MAX_CHARS]) - len(head)
    for pattern, parse in _FORMS:
        if (found := pattern.match(head)) and (told := parse(found)):
            return told, text[cut + found.end() :].lstrip("\n")
    return {}, text


def _fenced(found: re.Match[str]) -> dict[str, Any]:
    try:
        value = plain(tomllib.loads(found[2]) if found[1] == "+++" else _yaml(found[2]), MAX_DEPTH)
    except (ValueError, RecursionError):
        return {}
    return {key.lower(): one for key, one in value.items()} if isinstance(value, dict) else {}


def _yaml(text: str) -> Any:
    """A YAML document of strings, lists and mappings.

    Raises: ValueError, also for aliases, which can unfold to any size, and for depths, which take the library long.
    """
    import yaml  # type: ignore[import-untyped]

    depth = 0
    try:
        for event in yaml.parse(text, yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
                raise ValueError("aliases, or too many levels")
        return yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _linked(found: re.Match[str]) -> dict[str, Any]:
    told = (line.partition(":") for line in _LINK.findall(found[0]))
    return {key.strip().lower(): value.strip().strip('"()') for key, _, value in told if key.strip() and value.strip()}


def _headed(found: re.Match[str]) -> dict[str, Any]:
    told = {key.lower(): " ".join(value.split()) for key, value in _HEADER.findall(found[0])}
    return told if _TELLING & told.keys() else {}


def _listed(found: re.Match[str]) -> dict[str, Any]:
    return {key.lower(): " ".join(value.split()) for key, value in _LIST.findall(found[0])}


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], dict[str, Any]]], ...] = (
    (_FENCED, _fenced), (_LINKED, _linked), (_HEADED, _headed), (_LISTED, _listed),
)  # fmt: skip


def tell(document: Document, told: Mapping[str, Any]) -> None:
    """Put what a text tells about itself where documents keep it; what is known already stays."""
    if not told:
        return
    document.meta = {**document.meta, "front_matter": dict(told)}
    document.date = document.date or _first(told, DATES)
    document.url = document.url or next((url for url in (_first(told, (name,)) for name in URLS) if "://" in url), "")
    document.license = _first(told, LICENCES) or document.license


def _first(told: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((value.strip() for name in names if isinstance(value := told.get(name), str) and value.strip()), "")
