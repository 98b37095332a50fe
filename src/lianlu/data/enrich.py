"""The enrich stage: more documents like given good ones, out of a pool, until every topic has its quota.

    seeds -> topics; corpus: what each topic has; pool: the best of each topic -> part-NNNNN.parquet, gaps.json

Every taken document names the seeds that found it, at the end of `meta.parents` and with method, topic and score in
`meta.retrieved_by`. What seeds or corpus have already, and what the pool has twice, is not taken. `gaps.json` tells for each
topic what the corpus had, what the pool offered, what was taken, and what is still missing. InternLM speaks of such a step
without a recipe (launch of InternLM2, 2024-01). Memory: about 20 bytes for each different known term of each document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Config, Documents
from lianlu.core.errors import DataError
from lianlu.core.files import write_json
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.retrieval.bm25 import Bm25, Counts, Floats, Longs, Vocabulary
from lianlu.data.retrieval.topics import Embedding, clusters, names
from lianlu.formats.documents import Document, document_files, read_documents, write_documents

FORMAT = 1
_BLOCK = 1024
_PARENTS = 3
_BYTES_PER_S, _PACKED = 2e6, 4
Score = Callable[[Counts], Floats]


class EnrichConfig(Config):
    """What is looked for, where, and how much of it."""

    seeds: Documents
    """Documents of high quality: more like these."""
    pool: Documents
    """Documents to choose from."""
    corpus: Documents | None = None
    """What there is already; none: the seeds."""
    method: Literal["bm25", "hybrid"] = "hybrid"
    """bm25: terms alone; hybrid: the mean of that score and the cosine of vectors."""
    documents_per_topic: int = Field(100, gt=0)
    """How many documents each topic shall have, those of the corpus included."""
    topics: int = Field(0, ge=0)
    """Topics among the seeds at most; 0: the root of half their number."""
    min_score: float = Field(0.12, gt=0)
    """Nothing below this is taken or counted; 1 is the score of a seed for itself. Ours: nine of ten above it were right."""


@dataclass(frozen=True)
class Ranked:
    """Documents of a collection: topic and score of each, the seeds that speak for it (best first), and a hash of its text."""

    topics: Longs
    scores: Floats
    parents: Longs
    parent_scores: Floats
    texts: list[bytes]


@dataclass
class Gap:
    """A topic: documents that are wanted, that the corpus has, that the pool offers, that were taken, that are missing."""

    topic: str
    seeds: int
    wanted: int
    corpus: int
    offered: int = 0
    taken: int = 0
    missing: int = 0


def estimate(config: EnrichConfig) -> Estimate:
    """Seconds and memory from the size of the pool; 12 MB of text are assumed where it does not exist yet."""
    path = Path(config.pool)
    size = _PACKED * sum(file.stat().st_size for file in document_files(path)) if path.exists() else 12_000_000
    return Estimate(size / _BYTES_PER_S + 5, 300_000_000 + size, f"{size / 1e6:.0f} MB of text at 2 MB/s")


def run(config: EnrichConfig, out: Output) -> None:
    """Write what the pool has like the seeds. Raises: DataError if seeds or pool are empty."""
    paths = [Path(path) for path in (config.seeds, config.pool, config.corpus or config.seeds)]
    vocabulary, texts = Vocabulary(), [list[bytes](), list[bytes](), list[bytes]()]
    seeds, pool, corpus = (
        vocabulary.counts(_hashed(read_documents(path), own), grow=number == 0)
        for number, (path, own) in enumerate(zip(paths, texts, strict=True))
    )
    for what, path, counts in (("seeds", paths[0], seeds), ("pool", paths[1], pool)):
        if not counts.lengths.any():
            raise DataError(f"the {what} in {path} have no words", hint=f"name documents with text as {what}")
    terms = list(vocabulary.numbers)
    bm25 = Bm25([seeds, pool], len(terms))
    embed = Embedding(terms, bm25.idf, seeds)
    labels = clusters(embed(seeds), config.topics or max(round((len(seeds) / 2) ** 0.5), 1))
    score = _score(config, bm25, embed, seeds)
    ranked = [_ranked(counts, score, labels, own) for counts, own in ((pool, texts[1]), (corpus, texts[2]))]
    gaps = _gaps(config, names(terms, bm25.idf, seeds, labels), labels, ranked[1])
    taken = _choose(ranked[0], gaps, config, {*texts[0], *texts[2]})
    ids = [document.id for document in read_documents(paths[0])]
    count = write_documents(out.path, _documents(config, ranked[0], taken, gaps, ids))
    write_json(out.path / "gaps.json", {"format": FORMAT, "topics": [asdict(gap) for gap in gaps]})
    _tell(gaps)
    missing = sum(gap.missing for gap in gaps)
    out.figures.update(documents=count, topics=len(gaps), offered=sum(gap.offered for gap in gaps), missing=missing)


def _hashed(documents: Iterable[Document], texts: list[bytes]) -> Iterator[Document]:
    """The same documents; a hash of each text, white space aside, is added to `texts`."""
    for document in documents:
        texts.append(xxhash.xxh3_128_digest(" ".join(document.text.split()).encode("utf-8", "replace")))
        yield document


def _score(config: EnrichConfig, bm25: Bm25, embed: Embedding, seeds: Counts) -> Score:
    """A function from documents to their scores for each seed."""
    queries = bm25.queries(seeds)
    if config.method == "bm25":
        return lambda counts: bm25.scores(counts, queries)
    vectors = embed(seeds)
    return lambda counts: (bm25.scores(counts, queries) + np.maximum(embed(counts) @ vectors.T, 0)) / 2


def _ranked(counts: Counts, score: Score, labels: Longs, texts: list[bytes]) -> Ranked:
    parents, values = [], []
    with console.progress("enrich", total=len(counts), unit="document") as bar:
        for first in range(0, len(counts), _BLOCK):
            block = counts.block(first, min(first + _BLOCK, len(counts)))
            scores = score(block).round(9)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :_PARENTS]
            parents.append(best)
            values.append(np.take_along_axis(scores, best, axis=1))
            bar.advance(len(block))
    width = min(len(labels), _PARENTS)
    found = np.concatenate([np.empty((0, width), np.int64), *parents])
    scores = np.concatenate([np.empty((0, width)), *values])
    return Ranked(labels[found[:, 0]], scores[:, 0], found, scores, texts)


def _gaps(config: EnrichConfig, titles: list[str], labels: Longs, corpus: Ranked) -> list[Gap]:
    there = np.bincount(corpus.topics[corpus.scores >= config.min_score], minlength=len(titles)).tolist()
    seeds = np.bincount(labels, minlength=len(titles)).tolist()
    wanted = config.documents_per_topic
    return [Gap(title, count, wanted, has) for title, count, has in zip(titles, seeds, there, strict=True)]


def _choose(pool: Ranked, gaps: list[Gap], config: EnrichConfig, there: set[bytes]) -> list[int]:
    """The places of what is taken, in order; fills in the gaps."""
    taken: list[int] = []
    for place in np.lexsort((np.arange(len(pool.scores)), -pool.scores)).tolist():
        if pool.scores[place] < config.min_score:
            break
        if pool.texts[place] in there:
            continue
        there.add(pool.texts[place])
        gap = gaps[int(pool.topics[place])]
        gap.offered += 1
        if gap.corpus + gap.taken < gap.wanted:
            gap.taken += 1
            taken.append(place)
    for gap in gaps:
        gap.missing = max(gap.wanted - gap.corpus - gap.taken, 0)
    return sorted(taken)


def _documents(config: EnrichConfig, pool: Ranked, taken: list[int], gaps: list[Gap], ids: list[str]) -> Iterator[Document]:
    wanted = set(taken)
    for place, document in enumerate(read_documents(Path(config.pool))):
        if place in wanted:
            pairs = zip(pool.parents[place].tolist(), pool.parent_scores[place].tolist(), strict=True)
            before = [str(name) for name in document.meta.get("parents") or []]
            seeds = [ids[seed] for seed, score in pairs if score >= config.min_score and ids[seed] not in before]
            topic, score = gaps[int(pool.topics[place])].topic, round(float(pool.scores[place]), 4)
            found = {"method": config.method, "topic": topic, "score": score, "seeds": seeds}
            document.meta = {**document.meta, "parents": [*before, *seeds], "retrieved_by": found}
            yield document


def _tell(gaps: list[Gap]) -> None:
    for gap in gaps:
        shown = f"{gap.corpus} of {gap.wanted} there, {gap.offered} offered, {gap.taken} taken, {gap.missing} missing"
        console.info(f"      {gap.topic}: {shown}")
