"""Documents compared with each other, after rules have judged each by itself: which repeat others, which lines they share.

    earlier corpora -> exact duplicates -> near duplicates (the alarm may stop the run) -> the same in other words -> shared lines

What a document repeats is a duplicate of this corpus or an earlier one; lines that many documents share are taken out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lianlu.data.dedup import alarm, line_dedup
from lianlu.data.dedup.dedup_index import DedupIndex, Earlier, repeated
from lianlu.data.dedup.duplicates import Duplicate, Place, exact_duplicates, near_duplicates, semantic_duplicates
from lianlu.data.rules.thresholds import Thresholds, Verdict
from lianlu.data.scores.cost import timed
from lianlu.data.scores.decisions import Decision
from lianlu.data.scores.scored import Chunk

STEPS = ("exact_dedup", "near_dedup", "semantic_dedup", "line_dedup")
Verdicts = list[list[Verdict | None]]
Duplicates = dict[Place, Duplicate | Earlier]


@dataclass(frozen=True)
class Corpus:
    """All chunks of a run, the folder they are in, and how many processes work on them."""

    scored: Path
    chunks: Sequence[Chunk]
    workers: int


@dataclass(frozen=True)
class Comparison:
    """What is compared: the families asked, their thresholds, and the indexes of earlier corpora."""

    families: tuple[str, ...]
    thresholds: Thresholds
    earlier: tuple[Path, ...] = ()

    def limit(self, family: str, key: str) -> float | None:
        """A threshold for all kinds of text; None where the family or the rule is off."""
        limit = self.thresholds.of(family)[key] if family in self.families else False
        return None if limit is False else float(limit)


def duplicates(corpus: Corpus, verdicts: Verdicts, comparison: Comparison) -> Duplicates:
    """What each document that broke no rule repeats, if anything. Raises: DataError if the alarm goes off."""
    chunks = corpus.chunks
    left = [(number, row) for number, own in enumerate(verdicts) for row, verdict in enumerate(own) if verdict is None]
    near = comparison.limit("near_dedup", "max_jaccard")
    found: Duplicates = dict(repeated([DedupIndex(path) for path in comparison.earlier], chunks, left, near))
    if "exact_dedup" in comparison.families:
        left = [place for place in left if place not in found]
        found |= exact_duplicates(chunks, left)
    if near is not None:
        left = [place for place in left if place not in found]
        gone = near_duplicates(chunks, left, near)
        names = _ids(chunks, {duplicate.kept for duplicate in gone.values()})
        bounds = alarm.Bounds.of(comparison.thresholds.of("alarm"))
        alarm.stop_at(alarm.findings(alarm.of_duplicates(corpus.scored, left, gone, names), bounds))
        found |= gone
    if (cosine := comparison.limit("semantic_dedup", "max_cosine")) is not None:
        found |= semantic_duplicates(chunks, [place for place in left if place not in found], cosine)
    return found


def take_lines(
    corpus: Corpus, verdicts: Verdicts, gone: Mapping[Place, Duplicate | Earlier], comparison: Comparison, folder: Path
) -> Path | None:
    """Find the lines that documents share, and write them to `folder`; those with too little left get their verdict."""
    if line_dedup.FAMILY not in comparison.families:
        return None
    kept = [
        np.array([row for row, verdict in enumerate(own) if verdict is None and (number, row) not in gone], np.int64)
        for number, own in enumerate(verdicts)
    ]
    with timed(line_dedup.FAMILY, sum(int(chunk.num_bytes.sum()) for chunk in corpus.chunks)):
        line_dedup.find_repeated(
            corpus.scored, folder, kept, comparison.thresholds, corpus.workers if len(corpus.chunks) > 2 else 1
        )
    for number, (chunk, own) in enumerate(zip(corpus.chunks, verdicts, strict=True)):
        left = line_dedup.read_left(folder, number, len(chunk))
        for row in np.flatnonzero(left < 1).tolist():
            limit = comparison.thresholds.of(line_dedup.FAMILY, *chunk.kinds()[row])["min_left"]
            if limit is not False and left[row] < limit:
                own[row] = Verdict("line_dedup.min_left", round(float(left[row]), 4), limit)
    return folder


def decided(
    chunks: Sequence[Chunk], verdicts: Verdicts, gone: Mapping[Place, Duplicate | Earlier], thresholds: Thresholds
) -> Iterator[list[Decision]]:
    """What becomes of every document, chunk by chunk."""
    names = _ids(chunks, {duplicate.kept for duplicate in gone.values() if isinstance(duplicate, Duplicate)})
    for number, chunk in enumerate(chunks):
        own = [Decision(name, verdict) for name, verdict in zip(chunk.ids(), verdicts[number], strict=True)]
        for row, decision in enumerate(own):
            if duplicate := gone.get((number, row)):
                repeats = duplicate.id if isinstance(duplicate, Earlier) else names[duplicate.kept]
                own[row] = Decision(decision.id, _as_verdict(duplicate, thresholds), repeats)
        yield own


def _as_verdict(duplicate: Duplicate | Earlier, thresholds: Thresholds) -> Verdict:
    key = "max_cosine" if duplicate.step == "semantic_dedup" else "max_jaccard"
    threshold = 1.0 if duplicate.step == "exact_dedup" else thresholds.of(duplicate.step)[key]
    return Verdict(f"{duplicate.step}.{key}", round(duplicate.similarity, 4), threshold)


def _ids(chunks: Sequence[Chunk], places: set[Place]) -> dict[Place, str]:
    ids = {number: chunks[number].ids() for number in {number for number, _ in places}}
    return {(number, row): ids[number][row] for number, row in places}
