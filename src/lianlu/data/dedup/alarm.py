"""The alarm of near duplicate removal: it stops a run that would lose most of a source, or most of a corpus to one text.

Both happen when a page's frame outweighs its text or a source was crawled twice, and nobody sees them in a funnel. A source
counts by the documents of it that reached the comparison; a cluster is a kept document with those that repeat it. Where
there are few documents shares say nothing: such corpora and sources are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lianlu.core.errors import DataError
from lianlu.data.dedup.duplicates import Repeats
from lianlu.data.scores.columns import document_columns
from lianlu.data.scores.corpus import Corpus, Mask


@dataclass(frozen=True)
class Bounds:
    """When to give the alarm. Shares in 0..1, False: never; the rest are numbers of documents that were compared."""

    max_source_loss: float | bool = 0.5
    max_cluster_share: float | bool = 0.01
    min_source_documents: int = 100
    """Sources with fewer documents are left alone."""
    min_documents: int = 1000
    """Corpora with fewer documents are not searched for large clusters: one in a hundred would be a handful."""

    @staticmethod
    def of(limits: Mapping[str, Any]) -> Bounds:
        """Those of a table of thresholds."""
        return Bounds(**{name: limits[name] for name in Bounds.__dataclass_fields__ if name in limits})


@dataclass(frozen=True)
class Finding:
    """Something to be alarmed about: `kind` is source or cluster, `name` which, then documents taken, out of how many."""

    kind: str
    name: Any
    taken: int
    documents: int
    threshold: float

    @property
    def share(self) -> float:
        """The share that is taken, or that the cluster has."""
        return self.taken / self.documents

    def __str__(self) -> str:
        what = f"source {self.name or '(no name)'} loses" if self.kind == "source" else f"the cluster of {self.name} has"
        more = f"{100 * self.share:.3g} %, threshold {100 * self.threshold:.3g} %"
        return f"{what} {self.taken} of {self.documents} documents ({more})"


def findings(documents: Counter[str], lost: Counter[str], clusters: Iterable[tuple[Any, int]], bounds: Bounds) -> list[Finding]:
    """Every source and cluster beyond the bounds, the greatest share first; empty when all is well.

    `documents` were compared and `lost` go, by their sources; `clusters` are what tells a kept document, and how many repeat it.
    """
    return _ordered([*_sources(documents, lost, bounds), *_clusters(documents.total(), clusters, bounds)])


def _ordered(found: Iterable[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: (-finding.share, finding.kind, str(finding.name)))


def _sources(documents: Counter[str], lost: Counter[str], bounds: Bounds) -> Iterator[Finding]:
    limit = bounds.max_source_loss
    for name, count in documents.items():
        if limit is not False and count >= bounds.min_source_documents and lost[name] > limit * count:
            yield Finding("source", name, lost[name], count, limit)


def _clusters(total: int, clusters: Iterable[tuple[Any, int]], bounds: Bounds) -> Iterator[Finding]:
    limit = bounds.max_cluster_share
    if limit is False or total < bounds.min_documents:
        return
    for name, count in clusters:
        if count + 1 > limit * total:
            yield Finding("cluster", name, count + 1, total, limit)


def stop_at(found: Sequence[Finding]) -> None:
    """Raises: DataError that lists the findings, if there are any."""
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise DataError(
            f"near duplicate removal takes too much: {'; '.join(map(str, found[:5]))}{more}",
            hint="look at the texts (`lianlu data explain ID`): if they are one page under many addresses, raise "
            "thresholds.alarm.max_source_loss or max_cluster_share (false: no alarm); if only their frame is the same, "
            "take it out first, by extraction or by rules for lines",
        )


def findings_of_run(corpus: Corpus, left: Mask, gone: Repeats, bounds: Bounds) -> list[Finding]:
    """The findings while a run decides: `left` are the documents that were compared, `gone` those of them that go.

    Clusters are known by their kept documents, and two are told apart even where those have the same id.
    """
    documents, lost = Counter[str](), Counter[str]()
    taken = np.zeros(len(corpus), dtype=np.bool_)
    taken[gone["document"]] = True
    for number, (_, own) in enumerate(corpus.slices()):
        for source, is_left, is_taken in zip(
            document_columns(corpus.scored, number, "source")[0], left[own].tolist(), taken[own].tolist(), strict=True
        ):
            documents[source] += is_left
            lost[source] += is_taken
    kept, counts = np.unique(gone["kept"], return_counts=True)
    found = findings(documents, lost, zip(kept.tolist(), counts.tolist(), strict=True), bounds)
    return _ordered(replace(it, name=_id(corpus, it.name)) if it.kind == "cluster" else it for it in found)


def _id(corpus: Corpus, document: int) -> str:
    number, row = corpus.place(document)
    return corpus.chunks[number].ids()[row]
