"""`report.html` of a cleaned artifact: one page that loads nothing, in English and Chinese, made from files on disk alone.

Funnel, rules with histograms and samples on both sides of each threshold, domains, duplicates, cost, rejections. Texts of a
corpus are hostile: all are escaped, characters that turn or hide others are replaced, and the page's own policy allows no
script and no style but those it was made with. Every list has a bound, so that the page has a few megabytes at most.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from lianlu.core import console
from lianlu.core.files import write_text
from lianlu.data.report import tables
from lianlu.data.report.clusters import MAX_MEMBERS, clusters
from lianlu.data.report.excerpts import EXCERPT_CHARS, shown
from lianlu.data.report.rejected import rejected
from lianlu.data.report.signals import MAX_KINDS, spreads
from lianlu.data.scores.decide import Rules

REPORT = "report.html"


def write_data_report(name: str, artifact: Path, scored: Path, rules: Rules, path: Path) -> None:
    """Draw the page of the artifact called `name`; `scored` is the folder of its scores.

    Raises: DataError if files of the artifact are damaged or gone, ArtifactError if the page cannot be written.
    """
    write_text(path, render(name, artifact, scored, rules))


def render(name: str, artifact: Path, scored: Path, rules: Rules) -> str:
    """The page as HTML."""
    environment = Environment(
        autoescape=select_autoescape(["html"]), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(value=console.format_value, bytes=console.format_bytes, percent=_percent)
    template = environment.from_string(_asset("report.html"))
    style, script = _asset("report.css"), _asset("report.js")
    return template.render(
        name=shown(name, 120),
        t=_both,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        data=_as_data({"words": _words(), "max_kinds": MAX_KINDS, "excerpt_chars": EXCERPT_CHARS, **spreads(scored, rules)}),
        steps=tables.funnel(artifact),
        groups=tables.groups(scored, artifact),
        cost=tables.cost(artifact),
        clusters=clusters(scored, artifact),
        rejected=rejected(artifact),
        bounds={"rows": tables.MAX_ROWS, "members": MAX_MEMBERS},
    )


def _asset(file: str) -> str:
    return resources.files("lianlu.data.report").joinpath(file).read_text(encoding="utf-8")


@cache
def _words() -> dict[str, dict[str, str]]:
    """The page's words by language."""
    return tomllib.loads(_asset("words.toml"))


def _both(key: str, **values: Any) -> Markup:
    """A word or sentence in both languages; the page shows one of them."""
    pieces = [
        Markup('<span class="{0}" lang="{0}">{1}</span>').format(language, escape(words[key].format(**_plain(values))))
        for language, words in _words().items()
    ]
    return Markup("").join(pieces)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: console.format_value(value) for name, value in values.items()}


def _as_data(value: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def _hash(text: str) -> str:
    """What the policy knows a script or a style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
