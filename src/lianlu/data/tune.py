"""A threshold moved by looking: documents on both sides of it, a person's answers, and the bound that agrees with most.

The report of InternLM2 (arXiv 2403.17297, section 3.1.3) sets thresholds for each domain and language on samples near the
border alone. Nothing is computed anew: values come from the scores. Where a fraction of the documents is kept, the score that it
came to is moved, and what goes into the recipe is the fraction that comes to the new one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lianlu.core.errors import ConfigError
from lianlu.data.rules.edits import LINE, applied
from lianlu.data.rules.top_fraction import VALUE_OF, Cut, is_fraction, value_of
from lianlu.data.scores.corpus import Corpus
from lianlu.data.scores.cuts import scores_left
from lianlu.data.scores.decide import Kind, Rules, is_broken
from lianlu.data.scores.scored import chunks_in
from lianlu.formats.documents import Document

TAKEN = 0.05
"""Share of the documents that a rule which is off takes where it begins."""


@dataclass(frozen=True)
class Place:
    """A document by its chunk and row, with the value of the rule."""

    chunk: int
    row: int
    value: float


@dataclass(frozen=True)
class Border:
    """What is near the threshold of a rule for one kind of text: documents it takes and documents it leaves, nearest first.

    `table` is where the rule is set in its family (empty: for all texts); `cut` the fraction that the threshold came from;
    `is_off`: nothing was taken by it so far.
    """

    rule: str
    threshold: float
    taken: list[Place]
    left: list[Place]
    table: str = ""
    cut: Cut | None = None
    is_off: bool = False

    @property
    def setting(self) -> str:
        """What a recipe calls the rule: `thresholds.filters.web.top_quality`."""
        family, key = self.rule.split(".")
        return ".".join(filter(None, ("thresholds", family, self.table, key)))


def border(scored: Path, rules: Rules, rule: str, kind: Kind, count: int) -> Border:
    """Up to `count` documents on each side of a rule's threshold, among those of this domain, script and language.

    An empty part of `kind` matches all, as it does in the table of thresholds. Of equal values few are taken, so that the
    samples differ. A rule that is off begins where it would take `TAKEN`. Raises: ConfigError if the rule is unknown, has no
    values here or several thresholds, or a fraction is kept in its place.
    """
    cut = _cut(rules, rule, kind) if is_fraction(rule.partition(".")[2]) else None
    limit = cut.threshold if cut else _limit(rules, rule, kind)

    @cache
    def is_meant(own: Kind) -> bool:
        """Whether the threshold is that of a kind of text."""
        if not _matches(own, kind):
            return False
        return rules.cut(rule, own) == cut if cut else limit is None or _bound(rules, rule, own) is not False

    found = [
        Place(number, row, float(value))
        for number, chunk in enumerate(chunks_in(scored))
        for row, (own, value) in enumerate(zip(chunk.kinds(), chunk.signals().get(value_of(rule), ()), strict=False))
        if not np.isnan(value) and is_meant(own)
    ]
    if not found:
        raise ConfigError(f"no document has a value of {rule} here", hint="choose another domain or language")
    start = _start(rule, found) if limit is None else limit
    sides = {broken: [place for place in found if is_broken(rule, place.value, start) == broken] for broken in (True, False)}
    taken, left = (_nearest(sides[broken], start, count) for broken in (True, False))
    domain, script, lang = kind
    return Border(rule, start, taken, left, (cut.part or cut.domain) if cut else lang or script or domain, cut, limit is None)


def _bound(rules: Rules, rule: str, kind: Kind) -> Any:
    """The threshold of a rule for a kind of text, False if it is off, None if it is not asked."""
    return dict(rules.bounds(kind, [rule])).get(rule)


def _limit(rules: Rules, rule: str, kind: Kind) -> float | None:
    """The threshold of a rule, None if it is off. Raises: ConfigError if it has none, with the fraction in its place."""
    limit = _bound(rules, rule, kind)
    if limit is not False and isinstance(limit, int | float):
        return float(limit)
    instead = [cut for cut in rules.cuts if value_of(cut.rule) == rule and kind[0] in ("", cut.domain)]
    if instead:
        told = ", ".join(f"{cut.told} ({cut.threshold:g})" for cut in instead)
        hint = f"tune {instead[0].rule}, or set it to false for a threshold of your own"
        raise ConfigError(f"{rule} is not asked: {instead[0].rule} keeps the {told}", hint=hint)
    if limit is False and rule.partition(".")[2].startswith(tuple(VALUE_OF.values())):
        return None
    raise ConfigError(f"{rule} has no threshold for this kind of text", hint="name a rule as in rejected.jsonl: family.rule")


def _start(rule: str, places: Sequence[Place]) -> float:
    """Where a rule begins that is off."""
    share = 1 - TAKEN if is_broken(rule, 1, 0) else TAKEN
    return float(np.quantile([place.value for place in places], share, method="nearest"))


def _cut(rules: Rules, rule: str, kind: Kind) -> Cut:
    """The fraction that is meant. Raises: ConfigError if there is none, or not just one."""
    domain, script, lang = kind
    known = [cut for cut in rules.cuts if cut.rule == rule]
    if not known:
        raise ConfigError(f"no fraction was taken by {rule}", hint=f"set it in the recipe: thresholds.{rule} = 0.3")
    found = [cut for cut in known if domain in ("", cut.domain) and ((lang or script) in ("", cut.part))]
    if len(found) > 1 and domain:
        found = [cut for cut in found if not cut.part]
    if len(found) != 1:
        told = ", ".join(cut.told for cut in known)
        hint = "choose one of them: --domain, and --lang or --script where it is set for one"
        raise ConfigError(f"which fraction is meant? {rule} keeps the {told}", hint=hint)
    return found[0]


def fraction_at(scored: Path, rules: Rules, cut: Cut, limit: float) -> float:
    """The fraction that comes to a threshold, of the documents that are left when the rule is asked; at least one of them."""
    before = replace(rules, cuts=tuple(itertools.takewhile(lambda own: own.rule != cut.rule, rules.cuts)))
    pieces = scores_left(cut.rule, Corpus.of(scored), before)[cut.domain, cut.part]
    count = sum(map(len, pieces))
    kept = count - sum(int(is_broken(cut.rule, piece, limit).sum()) for piece in pieces)
    return round(max(kept, 1) / count, 6)


def _matches(kind: Kind, wanted: Kind) -> bool:
    return all(not part or part == own for own, part in zip(kind, wanted, strict=True))


def _nearest(places: Sequence[Place], limit: float, count: int) -> list[Place]:
    """The nearest to the limit, one of each value first."""
    ordered = sorted(places, key=lambda place: (abs(place.value - limit), place.chunk, place.row))
    firsts = {place.value: place for place in reversed(ordered)}
    chosen = sorted(firsts.values(), key=lambda place: (abs(place.value - limit), place.chunk, place.row))[:count]
    rest = [place for place in ordered if place not in chosen]
    return chosen + rest[: count - len(chosen)]


def texts_of(scored: Path, places: Sequence[Place]) -> dict[Place, Document]:
    """The documents at these places, with the lines out that rules for lines take out: what the rule has seen."""
    chunks = chunks_in(scored)
    found: dict[Place, Document] = {}
    for number in sorted({place.chunk for place in places}):
        wanted = {place.row: place for place in places if place.chunk == number}
        rows = enumerate(zip(chunks[number].documents(), chunks[number].edits(), strict=True))
        for row, (document, edits) in rows:
            if row in wanted:
                document.text = applied(document.text, [edit for edit in edits if edit.kind == LINE])
                found[wanted[row]] = document
    return found


def moved(rule: str, threshold: float, answers: Sequence[tuple[float, bool]]) -> float:
    """The threshold that agrees with most answers (value, whether the document is worth keeping).

    Candidates are the old one and the middles between answered values; of several the nearest to the old one.
    """
    values = sorted({value for value, _ in answers})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    outer = [values[0] - 1e-6 - abs(values[0]) * 1e-6, values[-1] + 1e-6 + abs(values[-1]) * 1e-6] if values else []

    def wrong(limit: float) -> int:
        return sum(is_broken(rule, value, limit) == worth for value, worth in answers)

    return min([threshold, *middles, *outer], key=lambda limit: (wrong(limit), abs(limit - threshold)))
