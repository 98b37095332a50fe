"""`lianlu data forget`: a document is taken out of all that holds it in the store, and only those files are written again.

Artifacts are rewritten in place: they keep their ids and get new digests. A new artifact beside the old one would leave the
text where it was; a new id would leave the old key free, and the next run of the recipe would make the document again from the
source. So the recipe goes on from the rewritten data, and what was made from other bytes is made anew. The order of a shard
does not depend on the other documents, so a rewritten one has the bytes of one made without the document. Each artifact is
replaced as a whole: a killed run is finished by the same command. `logs/forgotten.jsonl` in it records what was done.

A clean stage that was killed loses the chunks that hold the document and makes them anew without it. And the document goes on the
list of the store (`forgotten`), first of all, so that a run which reads the same source again leaves it out.

Nothing packs sequences on disk: training packs while it reads shards. Models cannot be rewritten; they are listed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lianlu.core.errors import ArtifactError
from lianlu.core.files import disk_errors, files_below, sha256_file, write_json, write_text
from lianlu.core.store import LOGS, STEP, FileRecord, Store, digest_of, now, read_manifest
from lianlu.data import forgotten
from lianlu.data.cleaned import open_cleaned
from lianlu.data.dedup.dedup_index import INDEX, write_index
from lianlu.data.holders import Holder, Holders, find_holders
from lianlu.data.scores.scored import SCORED
from lianlu.data.without import chunk_without, decisions_file, documents_without, ledger_without, shard_without, table_without

RECORD = f"{LOGS}/forgotten.jsonl"
FOLDER = "forget"
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
        # shards first: they may know a document only by the name that documents give it
        for holder in sorted(holders.found, key=lambda holder: not holder.shards):
            _rewrite(store, holder, name)
        for folder, chunks in holders.unfinished.items():
            with store.lock(folder.name):
                _make_anew(folder, chunks)
        shutil.rmtree(store.root / FOLDER, ignore_errors=True)
    return holders


def _make_anew(folder: Path, chunks: list[int]) -> None:
    """Leave of a killed clean stage the chunks without the document alone: all else is made of them."""
    bases = {f"{number:05d}" for number in chunks}
    with disk_errors(folder):
        for path in sorted(folder.iterdir()):
            if path.name in (SCORED, STEP):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in sorted(
            (folder / SCORED).iterdir(), key=lambda path: path.suffix != ".json"
        ):  # what says it is whole goes first
            if path.name.partition(".")[0] in ("", *bases):
                path.unlink()


def _rewrite(store: Store, holder: Holder, name: str) -> None:
    """Put a copy without the document in the place of an artifact; files that stay are linked, not copied."""
    artifact = holder.artifact
    if store.is_locked(artifact.id):
        raise ArtifactError(f"{artifact.id} is being made now", hint="wait for it, then run this again")
    target = store.root / FOLDER / artifact.id
    with store.lock(artifact.id), disk_errors(target):
        for path in files_below(artifact.path):
            place = target / path.relative_to(artifact.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)
        made = set(_written(holder, target)) | set(_indexed(store, holder, target))
        _record(holder, name, target)
        _write_manifest(holder, target, made | {RECORD})
        _swap(store, artifact.id)


def _written(holder: Holder, target: Path) -> Iterator[str]:
    """Write the files that change; yields their paths."""
    source = holder.artifact.path
    for path, rows in holder.documents.items():
        documents_without(source / path, target / path, rows)
        yield path
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
    own = target / SCORED
    scored = own if own.is_dir() else open_cleaned(store, holder.artifact.id)[0].scored
    write_index(folder, scored, target)
    yield from (str(path.relative_to(target)) for path in files_below(folder))


def _record(holder: Holder, name: str, target: Path) -> None:
    """Add a line to the record of what was forgotten."""
    path, before = target / RECORD, holder.artifact.manifest
    line = {"at": now(), "name": name, "documents": holder.num_documents, "files": holder.files, "digest_before": before.digest}
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, old + json.dumps(line, ensure_ascii=False) + "\n")


def _write_manifest(holder: Holder, target: Path, made: set[str]) -> None:
    """The manifest with the new hashes; the figures stay those of the run, and say how many documents left since."""
    before = holder.artifact.manifest
    known = {record.path: record for record in before.files if record.path not in made}
    paths = [path.relative_to(target) for path in files_below(target) if path.name != "manifest.json"]
    files = [known.get(str(path)) or _file_record(target, path) for path in paths]
    gone = int(before.figures.get("forgotten_documents", 0)) + holder.num_documents
    changes = {
        "files": files,
        "digest": digest_of(before.kind, files),
        "figures": {**before.figures, "forgotten_documents": gone},
    }
    write_json(target / "manifest.json", before.model_copy(update=changes).model_dump(mode="json"))


def _file_record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(path=str(path), bytes=(folder / path).stat().st_size, sha256=sha256_file(folder / path))


def _swap(store: Store, artifact_id: str) -> None:
    final, made = store.root / "artifacts" / artifact_id, store.root / FOLDER / artifact_id
    old = made.with_name(made.name + _OLD)
    os.rename(final, old)
    os.rename(made, final)
    shutil.rmtree(old)


def _finish(store: Store) -> None:
    """End what a killed run began: a copy goes to its place where the old one has left it, anything half-made goes."""
    for old in sorted((store.root / FOLDER).glob(f"*{_OLD}")):
        made, final = old.with_suffix(""), store.root / "artifacts" / old.stem
        if not final.exists():
            read_manifest(made)
            os.rename(made, final)
        shutil.rmtree(old)
    shutil.rmtree(store.root / FOLDER, ignore_errors=True)
