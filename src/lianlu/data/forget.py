"""`lianlu data forget`: a document is taken out of all that holds it in the store, and only those files are written again.

Artifacts are rewritten in place: they keep their ids and get new digests. A new artifact beside the old one would leave the
text where it was; a new id would leave the old key free, and the next run of the recipe would make the document again from the
source. So the recipe goes on from the rewritten data, and what was made from other bytes is made anew. The order of a shard
does not depend on the other documents, so a rewritten one has the bytes of one made without the document. All copies are made
first, then each takes the place of its artifact: a killed run is finished by the same command. `logs/forgotten.jsonl` in an
artifact records what was done.

Of a document that was joined from files of a repository, the part of the file goes, and the others stay; all of it goes from
shards, from what the clean stage made of it (scores and decisions are about the whole), and where it is not certain what the part
is. The next run of the recipe makes those anew, from the files that are left.

A clean stage that was killed loses the chunks that hold the document and makes them anew without it; other stages that were
killed start again. And the document goes on the list of the store (`forgotten`), first of all, so that a run which reads the same
source again leaves it out.

Nothing packs sequences on disk: training packs while it reads shards. Models cannot be rewritten; they are listed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lianlu.core.errors import ArtifactError, DataError
from lianlu.core.files import disk_errors, files_below, remove_leftovers, sha256_file, write_json, write_text
from lianlu.core.store import LOGS, STEP, FileRecord, Store, digest_of, now
from lianlu.data import forgotten
from lianlu.data.cleaned import Cleaned, open_cleaned
from lianlu.data.dedup.dedup_index import INDEX, write_index
from lianlu.data.holders import CLEAN, Holder, Holders, find_holders
from lianlu.data.report.page import REPORT, write_data_report
from lianlu.data.scores.scored import SCORED
from lianlu.data.without import (
    chunk_without,
    decisions_file,
    documents_without,
    ledger_without,
    nothing,
    shard_without,
    table_without,
)

RECORD = f"{LOGS}/forgotten.jsonl"
FOLDER, READY = "forget", ".ready"
"""Where the copies are made, and the file that says that they are whole."""
_OLD = ".old"


def forget(store: Store, name: str, apply: bool = False) -> Holders:
    """What holds the document with this id or URL; with `apply` it no longer does when this returns.

    Raises: ArtifactError if a holder is being made or the disk is full.
    """
    if not apply:
        return find_holders(store, name)
    with store.lock(FOLDER):
        forgotten.add(store.root, name)
        _finish(store)
        holders = find_holders(store, name)
        remove_leftovers(store.root / "work")
        for folder in (*holders.unfinished, *holders.begun):
            with store.lock(folder.name):
                _make_anew(folder, holders.unfinished.get(folder, []))
        for holder in holders.found:
            _copy(store, holder, holders)
        if holders.found:
            write_text(store.root / FOLDER / READY, "")
        _finish(store)
    return holders


def _make_anew(folder: Path, chunks: list[int]) -> None:
    """Leave of a killed clean stage the chunks without the document alone, of another stage nothing: all else is made of them."""
    bases = {f"{number:05d}" for number in chunks}
    with disk_errors(folder):
        for path in sorted(folder.iterdir()):
            if path.name in (SCORED, STEP):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        # what says that a chunk is whole goes first
        for path in sorted((folder / SCORED).glob("*"), key=lambda path: path.suffix != ".json"):
            if path.name.partition(".")[0] in bases:
                path.unlink()


def _copy(store: Store, holder: Holder, holders: Holders) -> None:
    """Make a copy of an artifact without the document; files that stay are linked, not copied."""
    artifact = holder.artifact
    if store.is_locked(artifact.id):
        raise ArtifactError(f"{artifact.id} is being made now", hint="wait for it, then run this again")
    target = store.root / FOLDER / artifact.id
    with store.lock(artifact.id), disk_errors(target):
        for path in files_below(artifact.path):
            place = target / path.relative_to(artifact.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)
        num_shorter = _write_documents(holder, holders, target)
        made = {RECORD, *holder.documents, *_written(holder, target), *_indexed(store, holder, target)}
        made |= set(_drawn(store, holder, target))
        _record(holder, holders.name, num_shorter, target)
        _write_manifest(holder, num_shorter, target, made)


def _write_documents(holder: Holder, holders: Holders, target: Path) -> int:
    """Write the documents without what is meant; returns how many are shorter now, in place of gone."""
    source = holder.artifact.path
    rest = nothing if holder.artifact.manifest.stage == CLEAN else holders.rest
    return sum(documents_without(source / path, target / path, rows, rest) for path, rows in holder.documents.items())


def _written(holder: Holder, target: Path) -> Iterator[str]:
    """Write the other files that change; yields their paths."""
    source = holder.artifact.path
    for path, numbers in holder.shards.items():
        shard_without(source / path, target / path, numbers)
        yield from (file.name for file in target.glob(f"{Path(path).stem}.*"))
    for number, rows in holder.chunks.items():
        chunk_without(source, target, number, rows)
        yield from (str(file.relative_to(target)) for file in target.glob(f"scored/{number:05d}.*"))
    for number, rows in holder.decisions.items():
        table_without(source / decisions_file(number), target / decisions_file(number), rows)
        yield decisions_file(number)
    for path in holder.ledgers:
        ledger_without(source / path, target / path, holder.names)
        yield path


def _indexed(store: Store, holder: Holder, target: Path) -> Iterator[str]:
    """Make the index for later corpora anew, which has ids and hashes of all documents; yields its files."""
    folder = target / INDEX
    if not folder.is_dir() or not holder.decisions:
        return
    shutil.rmtree(folder)  # its files are those of the artifact that is still in place
    write_index(folder, _scored(open_cleaned(store, holder.artifact.id)[0], target), target)
    yield from (str(path.relative_to(target)) for path in files_below(folder))


def _drawn(store: Store, holder: Holder, target: Path) -> Iterator[str]:
    """Draw the page of a cleaned artifact anew, which shows beginnings of documents; yields its path."""
    page = target / LOGS / REPORT
    if page.is_file() and holder.artifact.manifest.stage == CLEAN:
        page.unlink()
        with suppress(ArtifactError, DataError):  # where scores are gone there is no page any more
            cleaned = open_cleaned(store, holder.artifact.id)[0]
            name = cleaned.config.name or holder.artifact.id
            write_data_report(name, target, _scored(cleaned, target), cleaned.rules, page)
        yield str(page.relative_to(target))


def _scored(cleaned: Cleaned, target: Path) -> Path:
    """The scores of an artifact whose copy is `target`, as they will be: those it was made from were copied before it."""
    copied = target.parent / cleaned.scored.parent.name / SCORED
    return copied if copied.is_dir() else cleaned.scored


def _record(holder: Holder, name: str, num_shorter: int, target: Path) -> None:
    """Add a line to the record of what was forgotten."""
    path, before = target / RECORD, holder.artifact.manifest
    counts = {"documents": holder.num_documents, "shorter": num_shorter}
    line = {"at": now(), "name": name, **counts, "files": holder.files, "digest_before": before.digest}
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, old + json.dumps(line, ensure_ascii=False) + "\n")


def _write_manifest(holder: Holder, num_shorter: int, target: Path, made: set[str]) -> None:
    """The manifest with the new hashes; the figures stay those of the run, and say what was taken out since."""
    before = holder.artifact.manifest
    known = {record.path: record for record in before.files if record.path not in made}
    paths = [path.relative_to(target) for path in files_below(target) if path.name != "manifest.json"]
    files = [known.get(str(path)) or _file_record(target, path) for path in paths]
    changed = {"forgotten_documents": holder.num_documents - num_shorter, "shortened_documents": num_shorter}
    figures = {key: int(before.figures.get(key, 0)) + count for key, count in changed.items()}
    changes = {"files": files, "digest": digest_of(before.kind, files), "figures": {**before.figures, **figures}}
    write_json(target / "manifest.json", before.model_copy(update=changes).model_dump(mode="json"))


def _file_record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(path=str(path), bytes=(folder / path).stat().st_size, sha256=sha256_file(folder / path))


def _finish(store: Store) -> None:
    """Let the copies take the places of their artifacts if all are there, also those of a killed run; anything half-made goes.

    An artifact that was deleted meanwhile does not come back.
    """
    folder = store.root / FOLDER
    if (folder / READY).exists():
        for made in sorted(path for path in folder.iterdir() if (path / "manifest.json").exists() and path.suffix != _OLD):
            final, old = store.root / "artifacts" / made.name, folder / (made.name + _OLD)
            with store.lock(made.name):
                if final.exists():
                    os.rename(final, old)
                if old.exists():
                    os.rename(made, final)
    shutil.rmtree(folder, ignore_errors=True)
