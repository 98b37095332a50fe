"""Which artifacts hold a document: its text in cleaned data and scores, its tokens in shards, words about it in ledgers.

A document is meant by its id or its URL. Ids are those of the input, as for `data explain`: copies named `x~2` are meant by `x`
too. A document with `parents` among those meant (several concatenated to one) holds them, unless it was merely retrieved with
their help; the files of a repository that were joined are also known by their URL. In what was made from a holder, ids count as
they do in the holder, so that equal ids of other sources stay.
Limits: texts derived by other programs, and shards made before there were indexes, are not seen through; the latter are listed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from lianlu.core.errors import ArtifactError, DataError
from lianlu.core.lineage import Node, build_graph, reachable
from lianlu.core.store import LOGS, Artifact, Store
from lianlu.data.cleaned import open_cleaned
from lianlu.data.code.repository import without_files
from lianlu.data.scores.scored import DOCUMENTS, SCORED
from lianlu.data.scores.unique import COPY
from lianlu.data.shard import RESUME
from lianlu.data.without import decisions_file, mentions
from lianlu.formats.documents import Document
from lianlu.formats.shard_index import numbers_of
from lianlu.formats.shards import open_shard

LEARNED = ("tokenizer", "checkpoint", "adapter", "reward-model", "traces")
CLEAN = "clean"
STAGES = (CLEAN, "decontaminate", "held-out", "enrich", "repositories", "shard")
"""Those whose folders hold texts or tokens while they are at work."""


@dataclass
class Holder:
    """An artifact with what it holds: documents by file and row, shards by file and number, ledgers, and chunks of scores.

    `names` are the ids meant in this artifact, `num_tokens` counts those of its shards.
    """

    artifact: Artifact
    names: set[str] = field(default_factory=set)
    documents: dict[str, list[int]] = field(default_factory=dict)
    chunks: dict[int, list[int]] = field(default_factory=dict)
    decisions: dict[int, list[int]] = field(default_factory=dict)
    shards: dict[str, list[int]] = field(default_factory=dict)
    ledgers: list[str] = field(default_factory=list)
    num_tokens: int = 0

    @property
    def files(self) -> list[str]:
        """The files that are to be written again."""
        scores = [f"{SCORED}/{number:05d}.*" for number in self.chunks]
        return sorted([*self.documents, *scores, *map(decisions_file, self.decisions), *self.shards, *self.ledgers])

    @property
    def num_documents(self) -> int:
        """Documents in the data itself, copies included; scores and ledgers are beside it."""
        return sum(map(len, [*self.documents.values(), *self.shards.values()]))


@dataclass(frozen=True)
class Holders:
    """All that holds a document.

    `learned`: models made from it, which cannot be rewritten; `unsearched`: shards without an index; `outside`: raw files that
    it may be read from again; `unfinished`: folders of clean stages that were killed, with the chunks in them that hold it;
    `begun`: folders of other stages that were killed; `at_work`: stages that run now; `meant`: ids of all documents that are it,
    or made of it.
    """

    name: str
    found: list[Holder]
    learned: list[Artifact]
    unsearched: list[Path]
    outside: list[str]
    unfinished: dict[Path, list[int]] = field(default_factory=dict)
    begun: list[Path] = field(default_factory=list)
    at_work: list[Path] = field(default_factory=list)
    meant: frozenset[str] = frozenset()

    def rest(self, document: Document) -> Document | None:
        """What stays of a document that holds it: joined files but for those that are meant, or nothing."""
        if {document.id, COPY.sub("", document.id), document.url} & {self.name}:
            return None
        return without_files(document, parents_meant(document.meta, {self.name}, self.meant))


def find_holders(store: Store, name: str) -> Holders:
    """What holds the document with this id or URL. Nothing found is an empty list."""
    artifacts = store.list()
    holders = {artifact.id: Holder(artifact) for artifact in artifacts if artifact.manifest.kind in ("documents", "shards")}
    nodes = build_graph(artifacts)
    meant = _find_documents([holder for holder in holders.values() if holder.artifact.manifest.kind == "documents"], name)
    own = {key: set(holder.names) for key, holder in holders.items()}
    unsearched: list[Path] = []
    for key, holder in holders.items():
        holder.names |= {name}.union(*(own.get(above, ()) for above in reachable(nodes, key, upstream=True)))
        if holder.artifact.manifest.kind == "shards":
            unsearched += _find_tokens(holder, name)
        holder.ledgers = [path for path in _ledgers(holder.artifact) if mentions(holder.artifact.path / path, holder.names)]
    _find_decisions(store, holders)
    found = [holder for holder in holders.values() if holder.files]
    folders = [folder for folder in store.unfinished() if folder.name.rpartition("-")[0] in STAGES]
    at_work = [folder for folder in folders if store.is_locked(folder.name)]
    killed = [folder for folder in folders if folder not in at_work]
    chunks = {folder: _chunks_with(folder, name, meant) for folder in killed if (folder / SCORED).is_dir()}
    unfinished = {folder: own for folder, own in chunks.items() if own}
    begun = [folder for folder in killed if folder not in chunks and _is_begun_with(folder, name, meant)]
    learned, outside = _learned(nodes, found), _outside(found)
    return Holders(name, found, learned, unsearched, outside, unfinished, begun, at_work, frozenset(meant))


def _chunks_with(folder: Path, name: str, meant: Collection[str]) -> list[int]:
    """The numbers of the finished chunks of a killed clean stage that hold a document, or tell that it could not be read."""
    numbers = []
    for path in sorted((folder / SCORED).glob("?????.json")):
        base = path.with_name(path.name.removesuffix(".json") + DOCUMENTS)
        if mentions(path, {name}) or any(rows_meant(base, {name}, meant)):
            numbers.append(int(path.stem))
    return numbers


def _is_begun_with(folder: Path, name: str, meant: Collection[str]) -> bool:
    """Whether another stage that was killed has written the document, or its tokens, already."""
    if any(any(rows_meant(path, {name}, meant)) for path in folder.glob("part-*.parquet")):
        return True
    rows = chain.from_iterable(json.loads(path.read_text(encoding="utf-8")) for path in (folder / RESUME).glob("*.json"))
    return any(row[0] in meant or name in (row[1], COPY.sub("", row[0])) for row in rows)


def _find_documents(holders: list[Holder], name: str) -> set[str]:
    """Note rows that are the document or are made of it, until nothing more is found; returns their ids, and the name."""
    names, parents = {name}, {name}
    while True:
        for holder in holders:
            for path in sorted(holder.artifact.path.glob("part-*.parquet")):
                if rows := dict(rows_meant(path, names, parents)):
                    holder.documents[path.name], holder.names = list(rows), holder.names | set(rows.values())
            for path in sorted((holder.artifact.path / SCORED).glob(f"*{DOCUMENTS}")):
                if rows := dict(rows_meant(path, names, parents)):
                    holder.chunks[int(path.name[:5])], holder.names = list(rows), holder.names | set(rows.values())
        known = set.union(parents, *(holder.names for holder in holders))
        if known == parents:
            return known
        parents = known


def rows_meant(path: Path, names: Collection[str], parents: Collection[str]) -> Iterator[tuple[int, str]]:
    """Row and id of the documents in a Parquet file that have one of these names as id or URL, or one of these parents."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = pa.array(sorted(names), pa.large_string())
    start = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["id", "url", "meta"]):
            read_as = pc.replace_substring_regex(batch["id"], COPY.pattern, "")
            columns = [pc.is_in(column, value_set=wanted) for column in (batch["id"], batch["url"], read_as)]
            own = [any(cells) for cells in zip(*(column.to_pylist() for column in columns), strict=True)]
            derived = pc.match_substring(batch["meta"], '"parents"').to_pylist()
            for row, (is_own, may_be) in enumerate(zip(own, derived, strict=True)):
                if is_own or (may_be and parents_meant(json.loads(batch["meta"][row].as_py()), names, parents)):
                    yield start + row, batch["id"][row].as_py()
            start += batch.num_rows


def parents_meant(meta: Mapping[str, Any], names: Collection[str], parents: Collection[str]) -> list[int]:
    """The places of the parents of a document that are among `parents`, copies of one of `names`, or files with that URL."""
    given, retrieved, files = meta.get("parents"), meta.get("retrieved_by"), meta.get("files")
    seeds = retrieved.get("seeds", ()) if isinstance(retrieved, dict) else ()
    made_of = enumerate(given if isinstance(given, list) else ())
    found = {
        place
        for place, parent in made_of
        if isinstance(parent, str) and parent not in seeds and (parent in parents or COPY.sub("", parent) in names)
    }
    urls = enumerate(files if isinstance(files, list) else ())
    return sorted(found | {place for place, file in urls if isinstance(file, dict) and file.get("url") in names})


def _find_tokens(holder: Holder, name: str) -> list[Path]:
    """Note the documents in the shards of an artifact; returns those that cannot be searched."""
    unsearched = []
    for path in sorted(holder.artifact.path.glob("*.bin")):
        shard = open_shard(path)
        try:
            numbers = sorted({*numbers_of(shard, sorted(holder.names)), *numbers_of(shard, [name], "url")})
        except DataError:
            unsearched.append(path)
            continue
        if numbers:
            holder.shards[path.name] = numbers
            holder.num_tokens += sum(int(shard.offsets[number + 1] - shard.offsets[number]) for number in numbers)
    return unsearched


def _ledgers(artifact: Artifact) -> list[str]:
    """The JSON and JSONL files of an artifact of documents that tell of single documents."""
    if artifact.manifest.kind != "documents":
        return []
    paths = [record.path for record in artifact.manifest.files if record.path.endswith((".json", ".jsonl"))]
    return [path for path in paths if not path.startswith(LOGS + "/")]


def _find_decisions(store: Store, holders: dict[str, Holder]) -> None:
    """Note the decisions about rows of scores that go, also where they lie in an artifact that was decided anew."""
    chunks = {holder.artifact.path / SCORED: holder.chunks for holder in holders.values() if holder.chunks}
    for key, holder in holders.items():
        with suppress(ArtifactError):
            scored = open_cleaned(store, key)[0].scored
            there = [number for number in chunks.get(scored, {}) if (holder.artifact.path / decisions_file(number)).is_file()]
            holder.decisions = {number: chunks[scored][number] for number in there}


def _learned(nodes: dict[str, Node], found: list[Holder]) -> list[Artifact]:
    below = set().union(*(reachable(nodes, holder.artifact.id, upstream=False) for holder in found if holder.num_documents))
    made = [nodes[key].artifact for key in sorted(below)]
    return [artifact for artifact in made if artifact is not None and artifact.manifest.kind in LEARNED]


NOT_READ = ("filters", "model")
"""Inputs that judge texts: no document is read from them."""


def _outside(found: list[Holder]) -> list[str]:
    records = [
        record
        for holder in found
        for record in holder.artifact.manifest.inputs
        if not record.artifact and record.field not in NOT_READ
    ]
    return sorted({record.path or record.written for record in records})
