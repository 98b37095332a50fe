"""A threshold moved by looking: documents on both sides of it, a person's answers, and the bound that agrees with most.

The report of InternLM2 (arXiv 2403.17297, section 3.1.3) sets thresholds for each domain and language on samples near the
border alone. Nothing is computed anew: values come from the scores.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lianlu.core.errors import ConfigError
from lianlu.data.rules.edits import LINE, applied
from lianlu.data.scores.decide import Kind, Rules, is_broken
from lianlu.data.scores.scored import chunks_in
from lianlu.formats.documents import Document


@dataclass(frozen=True)
class Place:
    """A document by its chunk and row, with the value of the rule."""

    chunk: int
    row: int
    value: float


@dataclass(frozen=True)
class Border:
    """What is near the threshold of a rule for one kind of text: documents it takes and documents it leaves, nearest first."""

    rule: str
    threshold: float
    taken: list[Place]
    left: list[Place]


def border(scored: Path, rules: Rules, rule: str, kind: Kind, count: int) -> Border:
    """Up to `count` documents on each side of a rule's threshold, among those of this domain, script and language.

    An empty part of `kind` matches all, as it does in the table of thresholds. Of equal values few are taken, so that the
    samples differ. Raises: ConfigError if the rule is off, unknown, or has no values here.
    """
    limit = dict(rules.bounds(kind, [rule])).get(rule, False) if "." in rule else False
    if limit is False or not isinstance(limit, int | float):
        raise ConfigError(f"{rule} has no threshold for this kind of text", hint="name a rule as in rejected.jsonl: family.rule")
    found = [
        Place(number, row, float(value))
        for number, chunk in enumerate(chunks_in(scored))
        for row, value in enumerate(chunk.signals().get(rule, np.empty(0)))
        if not np.isnan(value) and _matches(chunk.kinds()[row], kind)
    ]
    if not found:
        raise ConfigError(f"no document has a value of {rule} here", hint="choose another domain or language")
    sides = {broken: [place for place in found if is_broken(rule, place.value, limit) == broken] for broken in (True, False)}
    return Border(rule, float(limit), *(_nearest(sides[broken], float(limit), count) for broken in (True, False)))


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
