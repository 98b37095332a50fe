"""How the values of every rule are spread, by kind of text, and which documents are nearest to its threshold.

A fraction that is kept (`top_x`) is a rule of its own beside the one that has its values.

Twice over the chunks: first a sample of values says where the bars of a histogram stand, then all values are counted. Kept in
memory are the sample and the counts, whatever the size of the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.data.report.excerpts import EXCERPT_CHARS, ID_CHARS, documents_at, shown
from lianlu.data.rules.characters import mixed
from lianlu.data.rules.top_fraction import value_of
from lianlu.data.scores.columns import num_chunks
from lianlu.data.scores.decide import Kind, Rules, is_broken, plain
from lianlu.data.scores.scored import Chunk

NUM_BARS = 40
NUM_SAMPLED = 4096
"""Values of a rule that say where its bars stand."""
MAX_KINDS = 10
MAX_SAMPLES = 3000
MAX_PER_SIDE = 5
"""Documents on the page, over all rules and kinds, and on one side of one threshold."""
Column = npt.NDArray[np.float64]


@dataclass
class Near:
    """The documents nearest to a threshold on one side, one of each value: (distance, chunk, row, value)."""

    found: list[tuple[float, int, int, float]] = field(default_factory=list)

    def add(self, number: int, rows: npt.NDArray[np.int64], values: Column, limit: float, count: int) -> None:
        """Look at the documents of a chunk on this side."""
        distances = np.abs(values - limit)
        _, firsts = np.unique(values, return_index=True)
        firsts = firsts[np.argsort(distances[firsts], kind="stable")[:count]]
        own = [(float(distances[at]), number, int(rows[at]), float(values[at])) for at in firsts]
        taken: dict[float, tuple[float, int, int, float]] = {}
        for entry in [*self.found, *own]:
            taken.setdefault(entry[3], entry)
        self.found = sorted(taken.values())[:count]


class Spread:
    """One rule: its bars, and for each kind the counts, what is beyond the threshold, and what is near it."""

    def __init__(self, name: str, sample: Column, limits: Sequence[float | None]) -> None:
        self.name, self.limits = name, limits
        self.is_log, self.edges = edges_of(sample, [limit for limit in limits if limit is not None])
        self.counts = np.zeros((len(limits), len(self.edges) - 1), dtype=np.int64)
        self.broken = [0] * len(limits)
        self.near = [(Near(), Near()) for _ in limits]

    def add(self, kind: int, number: int, rows: npt.NDArray[np.int64], values: Column, per_side: int) -> None:
        """Count the documents of one kind in a chunk; values beyond the outermost bars are counted there."""
        self.counts[kind] += np.histogram(np.clip(values, self.edges[0], self.edges[-1]), self.edges)[0]
        limit = self.limits[kind]
        if limit is None or not len(values):
            return
        broken = is_broken(self.name, values, limit)
        self.broken[kind] += int(broken.sum())
        for near, side in zip(self.near[kind], (broken, ~broken), strict=True):
            if side.any():
                near.add(number, rows[side], values[side], limit, per_side)

    def places(self) -> Iterator[tuple[int, bool, float, tuple[int, int]]]:
        """Kind, whether the rule takes it, value and place of every document near a threshold."""
        for kind, sides in enumerate(self.near):
            for near, taken in zip(sides, (True, False), strict=True):
                for _, number, row, value in near.found:
                    yield kind, taken, value, (number, row)


def edges_of(sample: Column, limits: Sequence[float]) -> tuple[bool, Column]:
    """Where bars begin and end, on a scale of factors if values are; thresholds are in view unless they are far off."""
    low, high = (float(value) for value in np.quantile(sample, [0.01, 0.99])) if len(sample) else (0.0, 1.0)
    width = high - low
    near = [limit for limit in limits if low - 2 * width <= limit <= high + 2 * width]
    low, high = min([low, *near]), max([high, *near])
    if low > 0 and high > 100 * low:
        return True, np.geomspace(low, high, NUM_BARS + 1)
    room = 0.02 * (high - low) or abs(low) * 0.05 or 1.0
    start = low - room if low < 0 or low >= room else 0.0
    return False, np.linspace(start, high + room, NUM_BARS + 1)


def spreads(scored: Path, rules: Rules) -> dict[str, Any]:
    """Kinds of text, and of every rule the histogram, thresholds and samples on both sides, as JSON values."""
    kinds, samples = _looked_over(scored)
    chosen = [kind for kind, _ in kinds.most_common(MAX_KINDS)]
    limits = [dict(rules.bounds(kind, samples)) for kind in chosen]
    names = dict.fromkeys([*samples, *(cut.rule for cut in rules.cuts if value_of(cut.rule) in samples)])
    made = [Spread(name, samples[value_of(name)], [*(_number(own.get(name)) for own in limits), None]) for name in names]
    num_sides = 2 * sum(limit is not None for spread in made for limit in spread.limits)
    per_side = max(1, min(MAX_PER_SIDE, MAX_SAMPLES // max(num_sides, 1)))
    for number, signals, groups in _chunks(scored, chosen):
        for spread in made:
            if (column := signals.get(value_of(spread.name))) is not None:
                for kind, rows in groups.items():
                    known = rows[~np.isnan(column[rows])]
                    spread.add(kind, number, known, column[known], per_side)
    others = kinds.total() - sum(kinds[kind] for kind in chosen)
    return {
        "kinds": [
            dict(zip(("domain", "script", "lang"), map(_short, kind), strict=True)) | {"documents": kinds[kind]}
            for kind in chosen
        ],
        "others": others,
        "per_side": per_side,
        "rules": [own | {"cuts": _cuts(own["name"], rules, chosen)} for own in _as_json(scored, made)],
    }


def _cuts(name: str, rules: Rules, chosen: Sequence[Kind]) -> list[str | None]:
    """What fraction the threshold of a rule came from, for each kind and for the others."""
    found = [rules.cut(name, kind) for kind in chosen]
    return [*(shown(cut.told, ID_CHARS) if cut else None for cut in found), None]


def _short(name: str) -> str:
    return shown(name, 40)


def _number(limit: Any) -> float | None:
    return float(limit) if isinstance(limit, int | float) and limit is not False else None


def _looked_over(scored: Path) -> tuple[Counter[Kind], dict[str, Column]]:
    """How many documents of each kind there are, and a sample of the values of each rule.

    The sample is drawn by a hash of the place, so that it is the same in every run.
    """
    kinds = Counter[Kind]()
    drawn: dict[str, tuple[Any, Column]] = {}
    for number in range(num_chunks(scored)):
        chunk = Chunk(scored, number)
        kinds.update(chunk.kinds())
        order = mixed(np.uint64(number << 32) + np.arange(len(chunk), dtype=np.uint64))
        for name, column in chunk.signals().items():
            known = ~np.isnan(column)
            before = drawn.get(name, (np.empty(0, np.uint64), np.empty(0)))
            keys, values = np.append(before[0], order[known]), np.append(before[1], column[known])
            if len(keys) > NUM_SAMPLED:
                first = np.argpartition(keys, NUM_SAMPLED)[:NUM_SAMPLED]
                keys, values = keys[first], values[first]
            drawn[name] = keys, values
    return kinds, {name: values for name, (_, values) in drawn.items()}


def _chunks(scored: Path, chosen: Sequence[Kind]) -> Iterator[tuple[int, Mapping[str, Column], dict[int, npt.NDArray[np.int64]]]]:
    """Number, values, and rows by kind of every chunk; kinds that were not chosen come together as the last."""
    numbers = {kind: index for index, kind in enumerate(chosen)}
    for number in range(num_chunks(scored)):
        chunk = Chunk(scored, number)
        own = np.array([numbers.get(kind, len(chosen)) for kind in chunk.kinds()], dtype=np.int64)
        yield number, chunk.signals(), {int(kind): np.flatnonzero(own == kind) for kind in np.unique(own)}


def _as_json(scored: Path, made: Sequence[Spread]) -> list[dict[str, Any]]:
    places = {place for spread in made for *_, place in spread.places()}
    texts = {
        place: (shown(document.id, ID_CHARS), shown(document.text.strip(), EXCERPT_CHARS))
        for place, document in documents_at(scored, places)
    }
    return [
        {
            "name": spread.name,
            "log": spread.is_log,
            "edges": [float(f"{edge:.6g}") for edge in spread.edges],
            "counts": spread.counts.tolist(),
            "limits": list(spread.limits),
            "broken": spread.broken,
            "samples": [[kind, taken, plain(value), *texts[place]] for kind, taken, value, place in spread.places()],
        }
        for spread in made
    ]
