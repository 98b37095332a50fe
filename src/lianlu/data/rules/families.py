"""The families of rules for prose and for code, in the order they are asked, and what each looks at.

prose, whole text -> Gopher quality and repetition, line breaks, odd characters, languages of paragraphs, long text
       lines of C4 and RefinedWeb are taken out
       what is left -> C4, RefinedWeb, punctuation, FineWeb, trained filters, perplexity
code  -> rules for code, quality
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lianlu.data.code import quality
from lianlu.data.code import rules as code_rules
from lianlu.data.code.source_file import path_of
from lianlu.data.rules import (
    c4,
    fineweb,
    gopher_quality,
    gopher_repetition,
    line_breaks,
    long_text,
    odd_characters,
    paragraph_language,
    punctuation,
    refinedweb,
)
from lianlu.data.rules.assets import FAMILIES as ASSISTED
from lianlu.data.rules.assets import Assets
from lianlu.data.rules.edits import Edit, applied, joined
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits
from lianlu.data.scores.cost import timed
from lianlu.formats.documents import Document

Signals = Iterable[tuple[str, float]]
LimitsOf = Callable[[str], Limits]
WHOLE: dict[str, Callable[[TextView, Limits], Signals]] = {
    "gopher_quality": gopher_quality.signals,
    "gopher_repetition": lambda view, _: gopher_repetition.signals(view),
    "line_breaks": lambda view, _: line_breaks.signals(view),
    "odd_characters": lambda view, _: odd_characters.signals(view),
    "paragraph_language": paragraph_language.signals,
    "long_text": long_text.signals,
}
LEFT: dict[str, Callable[[TextView, Limits], Signals]] = {
    "c4": lambda view, _: c4.signals(view),
    "punctuation": punctuation.signals,
    "fineweb": fineweb.signals,
}
PROSE = (
    "gopher_quality", "gopher_repetition", "line_breaks", "odd_characters", "paragraph_language", "long_text", "c4",
    "refinedweb", "punctuation", "fineweb", "safety", "filters", "perplexity",
)  # fmt: skip
CODE = ("code", "code_quality")
CODE_FILTER = "min_code"
"""The key of a trained filter called `code`, which may have a say in the quality of code."""


def line_edits(view: TextView, rules: tuple[str, ...], limits: LimitsOf) -> tuple[list[Edit], list[Edit]]:
    """The lines that C4 takes out, and those that RefinedWeb does."""
    with timed("c4", documents=0):
        first = c4.line_edits(view, limits("c4")) if "c4" in rules else []
    with timed("refinedweb", documents=0):
        then = refinedweb.line_edits(view, limits("refinedweb")) if "refinedweb" in rules else []
    return first, then


def prose_signals(
    view: TextView, url: str, rules: tuple[str, ...], limits: LimitsOf, assets: Assets
) -> tuple[dict[str, float], list[Edit]]:
    """The value of every rule for prose that is asked, by name, and the lines that go."""
    first, then = line_edits(view, rules, limits)
    lines = joined(first, then)
    left = TextView(applied(view.text, lines)) if lines else view
    found: dict[str, float] = {}
    for family in PROSE:
        if family not in rules:
            continue
        if family in WHOLE:
            found |= named(family, view, WHOLE[family](view, limits(family)))
        elif family in LEFT:
            found |= named(family, left, LEFT[family](left, limits(family)))
        elif family == "refinedweb":
            found |= named(family, view, refinedweb.signals(view, then))
        if family in ASSISTED:
            found |= named(family, left, assets.signals(family, left, url, limits(family)))
    return found, lines


def code_signals(
    view: TextView, document: Document, rules: tuple[str, ...], limits: LimitsOf, assets: Assets
) -> dict[str, float]:
    """The value of every rule for code that is asked, by name."""
    found: dict[str, float] = {}

    def classifier(_: str) -> float:
        return dict(assets.signals("filters", view, document.url, {})).get(CODE_FILTER, 0.5)

    if "code" in rules:
        own = code_rules.signals(view, limits("code"), document.lang, path_of(document), document.license)
        found |= named("code", view, own)
    if "code_quality" in rules:
        own = quality.signals(view, limits("code_quality"), document.lang, classifier if assets.filters else None)
        found |= named("code_quality", view, own)
    return found


def named(family: str, view: TextView, signals: Signals) -> dict[str, float]:
    """Values by the full names of their rules; the time they take is noted."""
    with timed(family, view.num_bytes):
        return {f"{family}.{name}": float(value) for name, value in signals}
