"""The clean stage: raw text in, documents worth learning from out, with every decision on record.

    source -> read -> extract -> normalise -> language -> Gopher quality, Gopher repetition, C4, FineWeb | code rules
           -> exact dedup -> near dedup -> PII -> part-NNNNN.parquet, rejected.jsonl, funnel.json

Documents are judged chunk by chunk in a pool of processes, then compared with each other in this one. The output is the
same for any number of workers, and after a kill: finished chunks wait in `.resume/`.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from lianlu.core import console
from lianlu.core.config import AnyArtifact, Config, Table
from lianlu.core.errors import DataError
from lianlu.core.files import write_json
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.decide import STEPS as RULE_STEPS
from lianlu.data.decide import Rules, decide
from lianlu.data.decisions import Decision, write_decisions
from lianlu.data.dedup import Duplicate, Place, exact_duplicates, near_duplicates
from lianlu.data.edits import LINE, Edit, applied
from lianlu.data.edits import counts as personal
from lianlu.data.ledger import FORMAT, Ledger
from lianlu.data.python_source import list_python
from lianlu.data.score import READ_STEPS, Settings
from lianlu.data.scored import DOCUMENTS, SCORED, SETTINGS, Chunk, chunked, chunks_in, run_all
from lianlu.data.sources import Listing, expand, list_files
from lianlu.data.thresholds import Thresholds, Verdict, shipped, with_shipped
from lianlu.formats import jsonl
from lianlu.formats.documents import FIRST_PART, Document, document_files, write_documents

PYTHON = "python"
STEPS = (*READ_STEPS, *RULE_STEPS, "exact_dedup", "near_dedup", "pii")
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
    scores: AnyArtifact = ""
    """An artifact of this stage whose scores are decided about anew, in place of a source: moving a threshold takes seconds."""
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
    chunks = _scored(config, out)
    rules = Rules(tuple(config.rules), Thresholds(config.thresholds), tuple(config.languages))
    verdicts = [decide(chunk.signals(), chunk.kinds(), rules) for chunk in chunks]
    ledger, totals = Ledger(STEPS), Counter[tuple[str, str]]()
    for chunk in chunks:
        ledger.add(chunk.summary["counts"])
        ledger.rejected += chunk.summary["rejected"]
    decided = _decided(config, chunks, verdicts, _duplicates(config, chunks, verdicts))
    kept = _unique(_kept(chunks, decided, ledger, totals, out))
    first = next(kept, None)
    if first is not None:
        write_documents(out.path, itertools.chain([first], kept), config.rows_per_part)
    jsonl.write_values(out.path / "rejected.jsonl", ledger.rejected)
    write_json(
        out.path / "funnel.json",
        {"format": FORMAT, "steps": [{"step": step, **count} for step, count in ledger.counts().items()]},
    )
    if first is None:
        raise _nothing_left(ledger, out.path / "rejected.jsonl")
    out.figures.update(_figures(ledger, totals))


def _num_workers(config: CleanConfig) -> int:
    return config.workers or len(os.sched_getaffinity(0))


def _scored(config: CleanConfig, out: Output) -> list[Chunk]:
    """Every chunk of the source with its scores: made now, or found in a cleaned artifact that was scored alike."""
    settings = Settings(
        rules=tuple(rule for rule in ALL_RULES if rule in config.rules),
        thresholds=Thresholds(config.thresholds),
        name=config.name,
        domain=config.domain,
        max_bytes=config.max_document_bytes,
        html_limit_s=config.html_limit_s,
    )
    before = Path(config.scores) / SCORED
    if config.scores and _read(before / SETTINGS) == settings.fingerprint():
        return chunks_in(before)
    folder = out.path / SCORED
    folder.mkdir(parents=True, exist_ok=True)
    listing = _listing(config)
    raws = expand(listing.raws, config.text_fields, config.max_document_bytes)
    packed = any(raw.file.endswith((".gz", ".zst", ".parquet")) for raw in listing.raws)
    workers = _num_workers(config) if listing.num_bytes > SERIAL_BYTES else 1
    chunks = []
    started = time.monotonic()
    with console.progress("clean", total=None if packed else listing.num_bytes / 1e6, unit="MB") as bar:
        for number, done in run_all(folder, chunked(raws), settings, workers):
            chunks.append(Chunk(folder, number))
            bar.advance(sum(raw.num_bytes for raw in done) / 1e6, documents=sum(map(len, chunks)))
        out.figures["megabytes_per_s"] = round(bar.done / max(time.monotonic() - started, 1e-9), 3)
    write_json(folder / SETTINGS, settings.fingerprint())
    return chunks


def _listing(config: CleanConfig) -> Listing:
    """What there is to read: files of a source, the documents of an artifact, or those that another run has read."""
    source = Path(config.source)
    if config.scores:
        return _joined(sorted((Path(config.scores) / SCORED).glob(f"*{DOCUMENTS}")))
    if config.source == PYTHON:
        return list_python()
    return _joined(document_files(source)) if (source / FIRST_PART).is_file() else list_files(source)


def _joined(files: Sequence[Path]) -> Listing:
    listings = [list_files(file) for file in files]
    return Listing([raw for listing in listings for raw in listing.raws], sum(listing.num_bytes for listing in listings))


def _read(path: Path) -> Any:
    """The settings of scores. Raises: DataError if there are none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "name an artifact of the clean stage that kept its scores"
        raise DataError(f"{path.parent.parent} holds no scores", hint=hint) from error


def _duplicates(
    config: CleanConfig, chunks: Sequence[Chunk], verdicts: Sequence[Sequence[Verdict | None]]
) -> dict[Place, Duplicate]:
    left = [(number, row) for number, own in enumerate(verdicts) for row, verdict in enumerate(own) if verdict is None]
    found = exact_duplicates(chunks, left) if "exact_dedup" in config.rules else {}
    if "near_dedup" in config.rules and (limit := config.thresholds["near_dedup"]["max_jaccard"]) is not False:
        found |= near_duplicates(chunks, [place for place in left if place not in found], limit)
    return found


def _decided(
    config: CleanConfig,
    chunks: Sequence[Chunk],
    verdicts: Sequence[Sequence[Verdict | None]],
    duplicates: Mapping[Place, Duplicate],
) -> Iterator[list[Decision]]:
    """What becomes of every document, chunk by chunk."""
    names = _ids(chunks, {duplicate.kept for duplicate in duplicates.values()})
    for number, chunk in enumerate(chunks):
        own = []
        for row, (name, verdict) in enumerate(zip(chunk.ids(), verdicts[number], strict=True)):
            duplicate = duplicates.get((number, row))
            own.append(
                Decision(name, _as_verdict(duplicate, config), names[duplicate.kept]) if duplicate else Decision(name, verdict)
            )
        yield own


def _kept(
    chunks: Sequence[Chunk], decided: Iterable[Sequence[Decision]], ledger: Ledger, totals: Counter[tuple[str, str]], out: Output
) -> Iterator[Document]:
    """The documents that are kept, edited, in order; the ledger sees all of them go by, and decisions are written."""
    for number, (chunk, decisions) in enumerate(zip(chunks, decided, strict=True)):
        write_decisions(out.path, number, decisions)
        for document, decision, changes in zip(chunk.documents(), decisions, chunk.edits(), strict=True):
            if _passes(document, decision, changes, ledger):
                size = len(document.text.encode())
                totals.update({("documents", document.domain): 1, ("bytes", document.domain): size, ("lang", document.lang): 1})
                totals.update({("pii", kind): count for kind, count in document.meta.get("pii", {}).items()})
                yield document


def _passes(document: Document, decision: Decision, changes: Sequence[Edit], ledger: Ledger) -> bool:
    """Lead one document past all steps, up to the one that drops it, making its edits on the way."""
    whole = document.text
    size = len(whole.encode())
    for step in STEPS[len(READ_STEPS) :]:
        ledger.enter(step, size)
        before = document.text
        if step == "c4":
            document.text = applied(whole, [edit for edit in changes if edit.kind == LINE])
        if step == "pii":
            document.text = applied(whole, changes)
            if found := personal(changes):
                document.meta = {**document.meta, "pii": found}
        if decision.verdict is not None and step == decision.step:
            more = {"kept": decision.repeats} if decision.repeats else {}
            ledger.drop(step, document, decision.verdict, **more)
            return False
        edited = document.text != before
        size = len(document.text.encode()) if edited else size
        ledger.leave(step, size, edited)
    return True


def _as_verdict(duplicate: Duplicate, config: CleanConfig) -> Verdict:
    threshold = 1.0 if duplicate.step == "exact_dedup" else config.thresholds["near_dedup"]["max_jaccard"]
    return Verdict(f"{duplicate.step}.max_jaccard", round(duplicate.similarity, 4), threshold)


def _ids(chunks: Sequence[Chunk], places: set[Place]) -> dict[Place, str]:
    ids = {number: chunks[number].ids() for number in {number for number, _ in places}}
    return {(number, row): ids[number][row] for number, row in places}


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
