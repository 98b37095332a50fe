"""The clean stage: raw text in, documents worth learning from out, with every decision on record.

    source -> read -> extract -> normalise -> language -> Gopher quality, Gopher repetition, C4, FineWeb | code rules
           -> exact dedup -> near dedup -> PII -> part-NNNNN.parquet, rejected.jsonl, funnel.json

Documents are judged chunk by chunk in a pool of processes, then compared with each other in this one. The output is the
same for any number of workers, and after a kill: finished chunks wait in `.resume/`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from lianlu.core import console
from lianlu.core.config import AnyArtifact, Config, Table
from lianlu.core.errors import DataError
from lianlu.core.files import write_json
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.chunks import Chunk, chunked, run_all
from lianlu.data.dedup import Duplicate, exact_duplicates, near_duplicates
from lianlu.data.ledger import FORMAT, Ledger
from lianlu.data.pipeline import STEPS, Settings
from lianlu.data.python_source import list_python
from lianlu.data.sources import Listing, expand, list_files
from lianlu.data.thresholds import Thresholds, Verdict, shipped, with_shipped
from lianlu.formats import jsonl
from lianlu.formats.documents import Document, write_documents

PYTHON = "python"
RESUME = ".resume"
SERIAL_BYTES = 2_000_000
"""Below this size one process is faster than starting several."""
_BYTES_PER_CORE_S = 1.5e6
_BASE_MEMORY_BYTES = 400_000_000
Rule = Literal["language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "code", "exact_dedup", "near_dedup", "pii"]
ALL_RULES: tuple[Rule, ...] = (
    "language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "code", "exact_dedup", "near_dedup", "pii",
)  # fmt: skip


class CleanConfig(Config):
    """What to read, and what to keep of it."""

    source: AnyArtifact = PYTHON
    """A folder or file of text, Markdown, HTML, code, JSONL or Parquet; `python`: its own sources, READMEs of packages."""
    name: str = ""
    """What the collection is called in the documents (`source`), where they do not say so themselves."""
    domain: str = ""
    """The sort of text (web, docs, code, book, ...); empty: told from the kind of file."""
    rules: tuple[Rule, ...] = ALL_RULES
    """The families of rules that are applied; their order is fixed."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages to keep; empty: all."""
    thresholds: dict[str, Any] = Field(default_factory=shipped)
    """Changes to the shipped thresholds, for example thresholds.gopher_quality.min_words=30; false turns a rule off."""
    text_fields: tuple[str, ...] = jsonl.TEXT_FIELDS
    """Fields of a JSONL line that may hold the text, in order of preference."""
    max_document_bytes: int = Field(50_000_000, gt=0)
    """Files, records and JSONL lines above this size are rejected."""
    html_limit_s: float = Field(5.0, gt=0)
    """Processor time a page may take to be extracted."""
    rows_per_part: int = Field(20_000, gt=0)
    """Documents per Parquet file."""
    workers: int = Field(0, ge=0)
    """Processes; 0: one for each core this process may use. The output does not depend on it."""

    @field_validator("thresholds")
    @classmethod
    def _complete(cls, value: Mapping[str, Any]) -> Table:
        return with_shipped(value)


def estimate(config: CleanConfig) -> Estimate:
    """Seconds and memory from the size of the source; 12 MB are assumed where it does not exist yet."""
    workers = _num_workers(config)
    path = Path(config.source)
    size = list_files(path).num_bytes if config.source != PYTHON and path.exists() else 12_000_000
    return Estimate(
        size / _BYTES_PER_CORE_S / workers + 3,
        _BASE_MEMORY_BYTES + workers * 150_000_000,
        f"{size / 1e6:.0f} MB at 1.5 MB/s a core",
    )


def run(config: CleanConfig, out: Output) -> None:
    """Clean a source into `out`. Raises: DataError if there is nothing to read or nothing is left."""
    listing = list_python() if config.source == PYTHON else list_files(Path(config.source))
    chunks = _judged(config, listing, out)
    ledger = Ledger(STEPS)
    for chunk in chunks:
        ledger.add(chunk.summary["counts"])
    duplicates = _duplicates(config, chunks)
    totals: Counter[tuple[str, str]] = Counter()
    kept = _unique(_kept(config, chunks, duplicates, ledger, totals))
    first = next(kept, None)
    if first is not None:
        write_documents(out.path, itertools.chain([first], kept), config.rows_per_part)
    rejected = [record for chunk in chunks for record in chunk.summary["rejected"]] + ledger.rejected
    jsonl.write_values(out.path / "rejected.jsonl", rejected)
    write_json(
        out.path / "funnel.json",
        {"format": FORMAT, "steps": [{"step": step, **count} for step, count in ledger.counts().items()]},
    )
    if first is None:
        raise _nothing_left(ledger, out.path / "rejected.jsonl")
    out.figures.update(_figures(ledger, totals))
    shutil.rmtree(out.path / RESUME)


def _num_workers(config: CleanConfig) -> int:
    return config.workers or len(os.sched_getaffinity(0))


def _judged(config: CleanConfig, listing: Listing, out: Output) -> list[Chunk]:
    """Every chunk of the source, worked through."""
    settings = Settings(
        rules=tuple(config.rules),
        thresholds=Thresholds(config.thresholds),
        name=config.name,
        domain=config.domain,
        languages=config.languages,
        max_bytes=config.max_document_bytes,
        html_limit_s=config.html_limit_s,
    )
    folder = out.path / RESUME
    folder.mkdir(parents=True, exist_ok=True)
    raws = expand(listing.raws, config.text_fields, config.max_document_bytes)
    packed = any(raw.file.endswith((".gz", ".zst", ".parquet")) for raw in listing.raws)
    workers = _num_workers(config) if listing.num_bytes > SERIAL_BYTES else 1
    chunks = []
    started = time.monotonic()
    with console.progress("clean", total=None if packed else listing.num_bytes / 1e6, unit="MB") as bar:
        for number, done in run_all(folder, chunked(raws), settings, workers):
            chunks.append(Chunk(folder, number))
            bar.advance(sum(raw.num_bytes for raw in done) / 1e6, kept=sum(map(len, chunks)))
        out.figures["megabytes_per_s"] = round(bar.done / max(time.monotonic() - started, 1e-9), 3)
    return chunks


def _duplicates(config: CleanConfig, chunks: list[Chunk]) -> dict[int, Duplicate]:
    found = exact_duplicates(chunks) if "exact_dedup" in config.rules else {}
    if "near_dedup" in config.rules and (limit := config.thresholds["near_dedup"]["max_jaccard"]) is not False:
        found |= near_duplicates(chunks, found, limit)
    return found


def _kept(
    config: CleanConfig, chunks: list[Chunk], duplicates: dict[int, Duplicate], ledger: Ledger, totals: Counter[tuple[str, str]]
) -> Iterator[Document]:
    """The documents that are no duplicates, in order; what goes through the last steps is counted on the way."""
    kept_ids = _ids(chunks, {duplicate.kept for duplicate in duplicates.values()})
    place = itertools.count()
    for chunk in chunks:
        for document, size in zip(chunk.documents(), chunk.num_bytes.tolist(), strict=True):
            duplicate = duplicates.get(next(place))
            _count_duplicate(ledger, document, size, duplicate, kept_ids, config)
            if duplicate is None:
                final = len(document.text.encode())
                ledger.enter("pii", size)
                ledger.leave("pii", final, edited="pii" in document.meta)
                totals.update({("documents", document.domain): 1, ("bytes", document.domain): final, ("lang", document.lang): 1})
                totals.update({("pii", kind): count for kind, count in document.meta.get("pii", {}).items()})
                yield document


def _ids(chunks: list[Chunk], places: set[int]) -> dict[int, str]:
    numbered = enumerate(document.id for chunk in chunks for document in chunk.documents()) if places else iter(())
    return {place: name for place, name in numbered if place in places}


def _count_duplicate(
    ledger: Ledger, document: Document, size: int, duplicate: Duplicate | None, ids: dict[int, str], config: CleanConfig
) -> None:
    for step in ("exact_dedup", "near_dedup"):
        ledger.enter(step, size)
        if duplicate is not None and duplicate.step == step:
            threshold = 1.0 if step == "exact_dedup" else config.thresholds["near_dedup"]["max_jaccard"]
            verdict = Verdict(f"{step}.max_jaccard", round(duplicate.similarity, 4), threshold)
            ledger.drop(step, document, verdict, kept=ids[duplicate.kept])
            return
        ledger.leave(step, size)


def _unique(documents: Iterator[Document]) -> Iterator[Document]:
    """The same documents with ids that occur once: a second `x` becomes `x~2`."""
    seen: Counter[str] = Counter()
    for document in documents:
        seen[document.id] += 1
        if seen[document.id] > 1:
            document.id = f"{document.id}~{seen[document.id]}"
        yield document


def _figures(ledger: Ledger, totals: Counter[tuple[str, str]]) -> dict[str, Any]:
    first, last = ledger.steps["read"], ledger.steps["pii"]

    def of(kind: str) -> dict[str, int]:
        return {name: count for (group, name), count in sorted(totals.items()) if group == kind}

    return {
        "files_or_records": first.documents_in,
        "bytes_in": first.bytes_in,
        "documents": last.documents_out,
        "bytes": last.bytes_out,
        "documents_by_domain": of("documents"),
        "bytes_by_domain": of("bytes"),
        "documents_by_language": dict(sorted(of("lang").items(), key=lambda pair: (-pair[1], pair[0]))[:10]),
        "placeholders": of("pii"),
        "rejected_by_rule": dict(ledger.taken()[:12]),
    }


def _nothing_left(ledger: Ledger, records: Path) -> DataError:
    taken = ledger.taken()
    total = sum(count for _, count in taken)
    listed = ", ".join(f"{rule} took {count}" for rule, count in taken[:6])
    hint = f"{records} lists each with value and threshold; a rule is turned off by thresholds.FAMILY.RULE=false"
    return DataError(f"nothing is left: all {total} documents were rejected ({listed})", hint=hint)
