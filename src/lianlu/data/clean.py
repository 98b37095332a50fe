"""The clean stage: raw text in, documents worth learning from out, with every decision on record.

    source -> read and score, chunk by chunk in a pool of processes (`scored/`) -> decide (thresholds on columns)
           -> compare documents with each other -> part-NNNNN.parquet, decisions/, rejected.jsonl, funnel.json, logs/report.html

The output is the same for any number of workers, here or on a cluster, and after a kill: finished chunks are found again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, field_validator

from lianlu.core import console
from lianlu.core.config import AnyArtifact, Aside, Config, Table
from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write, disk_errors, write_json
from lianlu.core.pool import Engine, Here, Pool
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.dedup import line_dedup
from lianlu.data.dedup.dedup_index import INDEX, write_index
from lianlu.data.filters.given import check_given
from lianlu.data.forgotten import forgotten_at
from lianlu.data.read.html_extractor import Name as ExtractorName
from lianlu.data.read.python_source import list_python
from lianlu.data.read.sources import Listing, expand, list_files
from lianlu.data.read.unreadable import Unreadable
from lianlu.data.report.page import REPORT, write_data_report
from lianlu.data.rules.assets import Assets
from lianlu.data.rules.thresholds import Thresholds, shipped, with_shipped
from lianlu.data.scores import cost
from lianlu.data.scores.compare import Comparison, decided, duplicates, passing, take_lines
from lianlu.data.scores.corpus import Corpus
from lianlu.data.scores.cost import timed
from lianlu.data.scores.cuts import check_earlier, with_cuts
from lianlu.data.scores.decide import Rules
from lianlu.data.scores.decisions import Decision
from lianlu.data.scores.keep import STEPS, Totals, kept, recorded
from lianlu.data.scores.ledger import FORMAT, Ledger
from lianlu.data.scores.rejections import REJECTED, Rejections
from lianlu.data.scores.score import Settings
from lianlu.data.scores.scored import DOCUMENTS, SCORED, SETTINGS, Chunk, chunked, run_all, scale_of
from lianlu.data.scores.unique import repeated_ids, unique
from lianlu.formats import jsonl
from lianlu.formats.documents import FIRST_PART, document_files, write_documents

PYTHON = "python"
SCRATCH = "comparing"
SERIAL_BYTES = 2_000_000
"""Below this size this process alone is faster than starting others; it then shares the fate of what it reads."""
_BYTES_PER_CORE_S = 1.5e6
_MAIN_BYTES, _WORKER_BYTES, _BYTES_FOR_SCALE = 200_000_000, 200_000_000, 26_000_000
"""Memory of the main process, of a worker, and what larger chunks take for each worker (bench/data.py at three sizes)."""
Rule = Literal[
    "language", "gopher_quality", "gopher_repetition", "line_breaks", "odd_characters", "paragraph_language", "long_text", "c4",
    "refinedweb", "punctuation", "fineweb", "safety", "filters", "perplexity", "code", "code_quality", "exact_dedup",
    "near_dedup", "semantic_dedup", "line_dedup", "pii",
]  # fmt: skip
ALL_RULES: tuple[Rule, ...] = get_args(Rule)
USUAL_RULES = tuple(rule for rule in ALL_RULES if rule not in ("paragraph_language", "long_text"))
"""Languages of paragraphs and rules for long texts are asked for by name: they cost time, or suit long texts alone."""


class EngineConfig(Config):
    """Where the work is done; the output does not depend on it."""

    kind: Literal["local", "ray"] = "local"
    """Processes of this machine, or a Ray cluster (extra `ray`), whose machines share a file system."""
    address: str = ""
    """HOST:PORT of the cluster; empty: the one that runs on this machine, or one started for this run."""


class CleanConfig(Config):
    """What to read, and what to keep of it."""

    source: AnyArtifact = PYTHON
    """A folder or file of text, Markdown, HTML, code, JSONL or Parquet; `python`: its own sources, READMEs of packages."""
    scores: AnyArtifact = ""
    """An artifact of this stage whose scores are decided about anew, in place of a source: moving a threshold takes seconds."""
    earlier: tuple[AnyArtifact, ...] = ()
    """Cleaned artifacts: documents that repeat what those kept are dropped, and the earlier document is named."""
    name: str = ""
    """What the collection is called in the documents (`source`), where they do not say so themselves."""
    domain: str = ""
    """The sort of text (web, docs, code, book, ...); empty: told from the kind of file."""
    rules: tuple[Rule, ...] = USUAL_RULES
    """The families of rules that are applied; their order is fixed."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages to keep; empty: all."""
    thresholds: dict[str, Any] = Field(default_factory=shipped)
    """Changes to the shipped thresholds, for example thresholds.gopher_quality.min_words=30; false turns a rule off."""
    text_fields: tuple[str, ...] = jsonl.TEXT_FIELDS
    """Fields of a JSONL line that may hold the text, in order of preference."""
    max_document_bytes: int = Field(50_000_000, gt=0)
    """Files, records and JSONL lines above this size are rejected."""
    max_bad: Annotated[float, Aside()] = Field(0.1, ge=0)
    """Stop if more cannot be read: below 1 a share of what was read so far, from 1 on a count. All are in rejected.jsonl."""
    extractor: ExtractorName = "trafilatura"
    """What takes articles out of pages; the others are extras that have to be installed."""
    blocked_domains: str = ""
    """A list of domains, one a line, for safety.max_blocked_domains; `datatrove`: the list installed with it."""
    unsafe_words: str = ""
    """A list of words or phrases with weights, for the rule safety.max_unsafe_words."""
    filters: tuple[AnyArtifact, ...] = ()
    """Filters made by `lianlu data train-filter`, for the rules filters.min_NAME, top_NAME, max_NAME, bottom_NAME."""
    model: AnyArtifact = ""
    """A checkpoint, or counts of a byte model (.npz), for perplexity and for the worth of context in long texts."""
    html_limit_s: float = Field(5.0, gt=0)
    """Processor time a page may take to be extracted."""
    rows_per_part: int = Field(20_000, gt=0)
    """Documents per Parquet file."""
    chunk_limit_s: float = Field(1800, gt=0)
    """Seconds that a chunk of the source may take, and each of its files or records alone if it took longer."""
    workers: Annotated[int, Aside()] = Field(default=0, ge=0)
    """Processes; 0: one for each core this process may use, or for each of the cluster. The output does not depend on it."""
    engine: Annotated[EngineConfig, Aside()] = EngineConfig()

    @field_validator("thresholds")
    @classmethod
    def _complete(cls, value: Mapping[str, Any]) -> Table:
        return with_shipped(value)


def estimate(config: CleanConfig) -> Estimate:
    """Seconds and memory from the size of the source; 12 MB are assumed where it does not exist yet."""
    workers = _num_workers(config)
    path = Path(config.source)
    listing = list_files(path) if config.source != PYTHON and path.exists() else Listing((), 12_000_000)
    return Estimate(
        listing.num_bytes / _BYTES_PER_CORE_S / workers + 3,
        _MAIN_BYTES + workers * (_WORKER_BYTES + scale_of(listing) * _BYTES_FOR_SCALE),
        f"{listing.num_bytes / 1e6:.0f} MB at 1.5 MB/s a core",
    )


def run(config: CleanConfig, out: Output) -> None:
    """Clean a source into `out`. Raises: DataError if there is nothing to read, nothing is left, or the alarm goes off."""
    rules = Rules(tuple(config.rules), Thresholds(config.thresholds), tuple(config.languages))
    check_given(rules.thresholds, config.rules, config.filters, config.model)
    check_earlier(rules, list(map(Path, config.earlier)), config.domain)
    with _engine(config) as engine, _scratch(out.path / SCRATCH) as folder:
        corpus = _scored(config, out, engine)
        with timed("decide", documents=0):
            rules = with_cuts(rules, corpus, out.path)
        earlier = tuple(Path(path) / INDEX for path in config.earlier)
        comparison = Comparison(rules, earlier, folder, engine if len(corpus.chunks) > 2 else Here())
        with timed("decide", documents=len(corpus)):
            left = passing(corpus, rules)
        with timed("compare", documents=len(corpus)):
            gone = duplicates(corpus, left, comparison)
        lines = take_lines(corpus, left, comparison, out.path / line_dedup.EDITS)
        decisions = recorded(decided(corpus, gone, comparison, lines), out.path)
        ledger, totals = _write(config, corpus, decisions, lines, rules, out)
    write_index(out.path / INDEX, corpus.scored, out.path)
    cost.write_total(out.logs)
    write_data_report(config.name or out.path.name, out.path, corpus.scored, rules, out.logs / REPORT)
    out.figures.update(_figures(ledger, totals))


@contextlib.contextmanager
def _engine(config: CleanConfig) -> Iterator[Engine]:
    """Where the work is done."""
    if config.engine.kind == "local":
        yield Pool(_num_workers(config))
    else:
        from lianlu.core.ray_pool import cluster

        with cluster(config.engine.address, config.workers) as engine:
            yield engine


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for files on the way; what a killed run left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    with disk_errors(folder):
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _write(
    config: CleanConfig, corpus: Corpus, decided: Iterable[Sequence[Decision]], lines: Path | None, rules: Rules, out: Output
) -> tuple[Ledger, Totals]:
    """Write what is kept, and what became of the rest. Raises: DataError if nothing is kept."""
    ledger, totals = Ledger(STEPS), Totals()
    with atomic_write(out.path / REJECTED) as file:
        rejections = Rejections(file)
        for chunk in corpus.chunks:
            summary = chunk.summary
            ledger.add(summary["counts"])
            ledger.rejected = summary["rejected"]
            rejections.take(ledger)
        found = kept(corpus.chunks, rejections.between(decided, ledger), lines, ledger, totals, rules)
        documents = unique(found, repeated_ids(corpus))
        first = next(documents, None)
        if first is not None:
            write_documents(out.path, itertools.chain([first], documents), config.rows_per_part)
        rejections.take(ledger)
    steps = [{"step": step, **count} for step, count in ledger.counts().items()]
    write_json(out.path / "funnel.json", {"format": FORMAT, "steps": steps})
    if first is None:
        raise _nothing_left(ledger, out.path / REJECTED)
    return ledger, totals


def _num_workers(config: CleanConfig) -> int:
    return config.workers or len(os.sched_getaffinity(0))


def _scored(config: CleanConfig, out: Output, engine: Engine) -> Corpus:
    """Every chunk of the source with its scores: made now, or found in a cleaned artifact that was scored alike."""
    settings = Settings(
        rules=tuple(rule for rule in ALL_RULES if rule in config.rules),
        thresholds=Thresholds(config.thresholds),
        name=config.name,
        domain=config.domain,
        max_bytes=config.max_document_bytes,
        html_limit_s=config.html_limit_s,
        extractor=config.extractor,
        assets=Assets(config.blocked_domains, config.unsafe_words, config.filters, config.model),
        forgotten=forgotten_at(out.path),
    )
    before = Path(config.scores) / SCORED
    if config.scores and _read(before / SETTINGS) == settings.fingerprint():
        return Corpus.of(before)
    folder = out.path / SCORED
    folder.mkdir(parents=True, exist_ok=True)
    listing = _listing(config)
    raws = expand(listing.raws, config.text_fields, config.max_document_bytes)
    if listing.num_bytes <= SERIAL_BYTES and config.engine.kind == "local":
        engine = Here()
    chunks = chunked(raws, scale_of(listing))
    sizes = [0]
    bad = Unreadable(config.max_bad)
    started = time.monotonic()
    with console.progress("clean", total=None if listing.is_packed else listing.num_bytes / 1e6, unit="MB") as bar:
        for number, done in run_all(folder, chunks, settings, engine, config.chunk_limit_s):
            chunk = Chunk(folder, number)
            sizes.append(sizes[-1] + len(chunk))
            with _on_record(folder, number + 1, out):
                bad.add(chunk.summary["counts"]["read"]["documents_in"], chunk.summary["rejected"])
            bar.advance(sum(raw.num_bytes for raw in done) / 1e6, documents=sizes[-1])
        out.figures["megabytes_per_s"] = round(bar.done / max(time.monotonic() - started, 1e-9), 3)
    with _on_record(folder, len(sizes) - 1, out):
        bad.end()
    if bad.count:
        listed = ", ".join(f"{rule} {count:,}" for rule, count in bad.rules.most_common())
        console.warn(f"{bad.count:,} of {bad.num_records:,} records could not be read ({listed}): see {REJECTED}")
    write_json(folder / SETTINGS, settings.fingerprint())
    return Corpus(folder, np.array(sizes, np.int64))


@contextlib.contextmanager
def _on_record(folder: Path, num_chunks: int, out: Output) -> Iterator[None]:
    """What the first chunks rejected is written down before too much of it stops the run."""
    try:
        yield
    except DataError:
        chunks = (Chunk(folder, number) for number in range(num_chunks))
        jsonl.write_values(out.path / REJECTED, (record for chunk in chunks for record in chunk.summary["rejected"]))
        raise


def _listing(config: CleanConfig) -> Listing:
    """What there is to read: files of a source, the documents of an artifact, or those that another run has read."""
    source = Path(config.source)
    if config.scores:
        return _joined(sorted((Path(config.scores) / SCORED).glob(f"*{DOCUMENTS}")))
    if config.source == PYTHON:
        return list_python()
    return _joined(document_files(source)) if (source / FIRST_PART).is_file() else list_files(source)


def _joined(files: Sequence[Path]) -> Listing:
    return Listing.of([raw for file in files for raw in list_files(file).raws])


def _read(path: Path) -> Any:
    """The settings of scores. Raises: DataError if there are none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "name an artifact of the clean stage that kept its scores"
        raise DataError(f"{path.parent.parent} holds no scores", hint=hint) from error


def _figures(ledger: Ledger, totals: Totals) -> dict[str, Any]:
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
        "documents_by_tier": of("tier"),
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
