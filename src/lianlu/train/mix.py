"""Weighted mixing of several sources, exact to a few tokens at every moment of the run.

Of the first P tokens of a phase, every stream in it has given its quota: an integer function of P that only grows, is within
as many tokens of `weight * P` as there are streams, and adds up to P. A step takes from each stream what its quota grows by. So
which tokens a step has is a pure function of the step and the configuration: no counter to save, no rank to know, and the
same for any division into steps.

A source may be in a phase twice: with short pieces, and with the long documents only (`short_share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lianlu.train.division import Division, Part
from lianlu.train.packing import Segment
from lianlu.train.phases import Phase
from lianlu.train.stream import DocumentStream, Source

SEVERAL_EPOCHS = 4
"""More than this often repeated, text teaches little (Muennighoff et al., arXiv 2305.16264)."""


class Quotas:
    """How many of the first P tokens belong to each of several streams of the given weights (any scale)."""

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(weight) for weight in weights]
        self._ratios = [weight / rest if (rest := sum(exact[i:])) else Fraction(0) for i, weight in enumerate(exact)]

    def __call__(self, position: int) -> list[int]:
        """Tokens of each stream among the first `position`: each grows with it, and together they are `position`."""
        found, left = [], position
        for ratio in self._ratios[:-1]:
            found.append(int(ratio * left))
            left -= found[-1]
        return [*found, left]


@dataclass(frozen=True)
class Leaf:
    """A stream that a phase draws from: which source, which part of its documents, at most how long, and its weight."""

    source: int
    weight: float
    max_segment: int
    longer_than: int = 0


class Mixture:
    """The tokens of one phase."""

    def __init__(self, leaves: Sequence[Leaf], streams: Sequence[DocumentStream]) -> None:
        self.leaves, self.streams = tuple(leaves), tuple(streams)
        self._quotas = Quotas([leaf.weight for leaf in leaves])

    def segments(self, start: int, num_tokens: int) -> list[Segment]:
        """Tokens `start` to `start + num_tokens` of the phase, one stream after the other."""
        spans = zip(self._quotas(start), self._quotas(start + num_tokens), strict=True)
        parts = [stream.segments(begin, end - begin) for stream, (begin, end) in zip(self.streams, spans, strict=True)]
        return [segment for part in parts for segment in part]

    def tokens(self, num_tokens: int) -> dict[int, int]:
        """Of the first `num_tokens`, how many each source gives."""
        found: dict[int, int] = {}
        for leaf, count in zip(self.leaves, self._quotas(num_tokens), strict=True):
            found[leaf.source] = found.get(leaf.source, 0) + count
        return found


def mixtures(
    sources: Sequence[Source],
    names: Sequence[str],
    phases: Sequence[Phase],
    seed: int,
    weights: Sequence[Sequence[float]] = (),
) -> tuple[list[Mixture], list[str]]:
    """What each phase draws from, and what a user should know about it: sources that cannot give what is asked of them.

    `weights` are those of the sources in each phase (`portions.capped_weights`); none: as the phases say.
    """
    notes: list[str] = []
    plans: list[list[Leaf]] = []
    for number, phase in enumerate(phases):
        plans.append(_leaves(phase, weights[number] if weights else weights_of(phase, sources), sources, names, notes))
    demands = [Quotas([leaf.weight for leaf in plan])(phase.num_tokens) for plan, phase in zip(plans, phases, strict=True)]
    streams: list[dict[int, DocumentStream]] = [{} for _ in phases]
    for index, source in enumerate(sources):
        places = [(number, at) for number, plan in enumerate(plans) for at, leaf in enumerate(plan) if leaf.source == index]
        parts = [Part(demands[number][at], plans[number][at].longer_than) for number, at in places]
        division = Division(source, parts, seed)
        for place, (number, at) in enumerate(places):
            key = (seed, index << 10 | place)
            streams[number][at] = DocumentStream(source, key, plans[number][at].max_segment, division.choice(place))
    made = [Mixture(plan, [found[at] for at in range(len(plan))]) for plan, found in zip(plans, streams, strict=True)]
    return made, notes + _repetitions(made, sources, names, demands)


def weights_of(phase: Phase, sources: Sequence[Source]) -> list[float]:
    """The weights of the sources in a phase; where none are given, a source weighs what it holds."""
    return list(phase.weights) or [float(source.num_tokens) for source in sources]


def _leaves(
    phase: Phase, weights: Sequence[float], sources: Sequence[Source], names: Sequence[str], notes: list[str]
) -> list[Leaf]:
    """The streams of a phase; one of weight 0 is left out."""
    leaves: list[Leaf] = []
    for index, weight in enumerate(weights):
        long_share = 1 - phase.short_share
        if phase.short_share and long_share and weight and not sources[index].tokens_longer_than(phase.short_length):
            long_share = 0.0
            taken = f"pieces of {phase.short_length:,} tokens are taken instead"
            notes.append(
                f"phase {phase.number + 1}: no document of {names[index]} is longer than {phase.short_length:,}; {taken}"
            )
        if weight * long_share:
            leaves.append(Leaf(index, weight * long_share, phase.sequence_length, phase.short_length))
        if weight * (1 - long_share):
            leaves.append(Leaf(index, weight * (1 - long_share), phase.short_length))
    return leaves


def _repetitions(
    made: Sequence[Mixture], sources: Sequence[Source], names: Sequence[str], demands: Sequence[Sequence[int]]
) -> list[str]:
    """Warnings about text that is read more than SEVERAL_EPOCHS times."""
    found = []
    totals = [0.0] * len(sources)
    for number, (mixture, demand) in enumerate(zip(made, demands, strict=True), 1):
        for leaf, stream, tokens in zip(mixture.leaves, mixture.streams, demand, strict=True):
            totals[leaf.source] += tokens / sources[leaf.source].num_tokens
            if leaf.longer_than and tokens > SEVERAL_EPOCHS * stream.num_tokens:
                times = tokens / stream.num_tokens
                found.append(f"phase {number} reads the long documents of {names[leaf.source]} {times:.1f} times")
    found += [f"{name} is read {times:.1f} times" for name, times in zip(names, totals, strict=True) if times > SEVERAL_EPOCHS]
    return [f"{note}: beyond {SEVERAL_EPOCHS} times, text teaches little; give it less weight, or more text" for note in found]
