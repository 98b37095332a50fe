"""Documents compared with each other, after rules have judged each by itself: which repeat others, which lines they share.

    earlier corpora -> exact duplicates -> near duplicates (the alarm may stop the run) -> the same in other words -> shared lines

What a document repeats is a duplicate of this corpus or an earlier one; lines that many documents share are taken out. In
memory are a byte for each document and some twenty for each duplicate; verdicts of rules are found again when they are
written, which takes less than keeping them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lianlu.core.pool import Engine, Here
from lianlu.data.dedup import alarm, line_dedup
from lianlu.data.dedup.dedup_index import DedupIndex, repeated
from lianlu.data.dedup.duplicates import STEPS as DUPLICATE_STEPS
from lianlu.data.dedup.duplicates import Repeats, exact_duplicates, near_duplicates, semantic_duplicates
from lianlu.data.rules.thresholds import Thresholds, Verdict
from lianlu.data.scores.corpus import Corpus, Ids, Mask
from lianlu.data.scores.cost import timed
from lianlu.data.scores.decide import Rules, decide
from lianlu.data.scores.decisions import Decision
from lianlu.data.scores.scored import Chunk

STEPS = (*DUPLICATE_STEPS, "line_dedup")
_KEYS = {"exact_dedup": "max_jaccard", "near_dedup": "max_jaccard", "semantic_dedup": "max_cosine"}


@dataclass(frozen=True)
class Comparison:
    """What is compared: the rules that go before, the indexes of earlier corpora; a folder for files on the way; workers."""

    rules: Rules
    earlier: tuple[Path, ...]
    folder: Path
    engine: Engine

    def limit(self, family: str, key: str) -> float | None:
        """A threshold for all kinds of text; None where the family or the rule is off."""
        limit = self.rules.thresholds.of(family)[key] if family in self.rules.families else False
        return None if limit is False else float(limit)


def passing(corpus: Corpus, rules: Rules) -> Mask:
    """The documents that break no rule."""
    left = np.empty(len(corpus), dtype=np.bool_)
    for chunk, own in corpus.slices():
        left[own] = [verdict is None for verdict in decide(chunk.signals(), chunk.kinds(), rules)]
    return left


def duplicates(corpus: Corpus, left: Mask, comparison: Comparison) -> Repeats:
    """What each of the documents that are left repeats, if anything; those that do are left no more.

    Raises: DataError if the alarm goes off.
    """
    near = comparison.limit("near_dedup", "max_jaccard")
    found = [repeated([DedupIndex(path) for path in comparison.earlier], corpus, left, near)]
    left[found[-1]["document"]] = False
    if "exact_dedup" in comparison.rules.families:
        found.append(exact_duplicates(corpus, left, comparison.folder))
        left[found[-1]["document"]] = False
    if near is not None:
        found.append(near_duplicates(corpus, left, near, comparison.folder, comparison.engine))
        bounds = alarm.Bounds.of(comparison.rules.thresholds.of("alarm"))
        alarm.stop_at(alarm.findings_of_run(corpus, left, found[-1], bounds))
        left[found[-1]["document"]] = False
    if (cosine := comparison.limit("semantic_dedup", "max_cosine")) is not None:
        found.append(semantic_duplicates(corpus, left, cosine))
        left[found[-1]["document"]] = False
    together = np.concatenate(found)
    return together[np.argsort(together["document"])]


class _Left(Sequence[npt.NDArray[np.int64] | None]):
    """The rows of each chunk that are left, found when they are asked for."""

    def __init__(self, corpus: Corpus, left: Mask) -> None:
        self._starts, self._left = corpus.starts, left

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> npt.NDArray[np.int64]:  # type: ignore[override]
        return np.flatnonzero(self._left[self._starts[number] : self._starts[number + 1]])


def take_lines(corpus: Corpus, left: Mask, comparison: Comparison, folder: Path) -> Path | None:
    """Find the lines that the documents that are left share, and write them to `folder`; None if the family is off."""
    if line_dedup.FAMILY not in comparison.rules.families:
        return None
    engine = comparison.engine if len(corpus.chunks) > 2 else Here()
    with timed(line_dedup.FAMILY, sum(int(chunk.num_bytes.sum()) for chunk in corpus.chunks)):
        line_dedup.find_repeated(corpus.scored, folder, _Left(corpus, left), comparison.rules.thresholds, engine)
    return folder


def decided(corpus: Corpus, gone: Repeats, comparison: Comparison, lines: Path | None) -> Iterator[list[Decision]]:
    """What becomes of every document, chunk by chunk; `lines` is the folder of shared lines, if they go."""
    indexes = [DedupIndex(path) for path in comparison.earlier]
    ids = Ids(corpus, np.unique(gone["kept"][gone["earlier"] == 0]), comparison.folder / "kept_ids")
    for number, (chunk, own) in enumerate(corpus.slices()):
        verdicts = decide(chunk.signals(), chunk.kinds(), comparison.rules)
        if lines is not None:
            _judge_rest(chunk, verdicts, line_dedup.read_left(lines, number, len(chunk)), comparison.rules.thresholds)
        decisions = [Decision(name, verdict) for name, verdict in zip(chunk.ids(), verdicts, strict=True)]
        first, end = np.searchsorted(gone["document"], [own.start, own.stop])
        for document, kept, similarity, step, earlier in gone[first:end].tolist():
            repeats = indexes[earlier - 1].id(kept) if earlier else ids[kept]
            row = document - own.start
            verdict = _as_verdict(DUPLICATE_STEPS[step], similarity, comparison.rules.thresholds)
            decisions[row] = Decision(decisions[row].id, verdict, repeats)
        yield decisions


def _judge_rest(chunk: Chunk, verdicts: list[Verdict | None], left: npt.NDArray[np.float64], thresholds: Thresholds) -> None:
    """Documents with too little left, after shared lines are gone, get their verdict."""
    kinds = chunk.kinds()
    for row in np.flatnonzero(left < 1).tolist():
        limit = thresholds.of(line_dedup.FAMILY, *kinds[row])["min_left"]
        if limit is not False and left[row] < limit:
            verdicts[row] = Verdict("line_dedup.min_left", round(float(left[row]), 4), limit)


def _as_verdict(step: str, similarity: float, thresholds: Thresholds) -> Verdict:
    key = _KEYS[step]
    threshold = 1.0 if step == "exact_dedup" else thresholds.of(step)[key]
    return Verdict(f"{step}.{key}", round(similarity, 4), threshold)
