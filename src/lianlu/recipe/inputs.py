"""What a reference in a recipe means: `@step`, an artifact, a model name, a path, or `python`.

Each becomes a real path for the stage and a content digest for the key. A model name that is not on this machine yet is
fetched when its step runs; planning only says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.core.config import Config, aside_fields, canonical, input_fields
from lianlu.core.errors import ArtifactError, DataError
from lianlu.core.files import sha256_json
from lianlu.core.store import Artifact, InputRecord, Store, read_manifest
from lianlu.model import pull
from lianlu.recipe.recipe import Step

PYTHON = "python"


@dataclass(frozen=True)
class Resolved:
    """A step ready to run: its config with real paths, its inputs, and its key."""

    config: Config
    inputs: list[InputRecord]
    key: str
    artifact_id: str


class PendingError(Exception):
    """An input does not exist yet: an earlier step has to run, a model has to be fetched, or a path is not there."""


def resolve_step(step: Step, store: Store, done: Mapping[str, Artifact], *, fetch: bool) -> Resolved:
    """Resolve every input of `step`. Raises: PendingError without `fetch`, DataError, ConfigError."""
    values = canonical(step.config)
    keyed = {name: value for name, value in values.items() if name not in aside_fields(type(step.config))}
    records: list[InputRecord] = []
    for field, mark in input_fields(type(step.config)).items():
        written = getattr(step.config, field)
        if not written:
            continue
        texts = list(written) if isinstance(written, list | tuple) else [written]
        found = [_resolve(field, text, store, done, fetch=fetch, model="checkpoint" in mark.kinds) for text in texts]
        records.extend(found)
        paths = [record.path for record in found]
        values[field] = paths if isinstance(written, list | tuple) else paths[0]
        keyed[field] = [record.digest for record in found]
    key = sha256_json([step.stage_name, step.stage.version, keyed])
    for record in records:
        record.path = "" if record.artifact else record.path
    return Resolved(type(step.config).model_validate(values), records, key, f"{step.stage_name}-{key[:12]}")


def _resolve(field: str, text: str, store: Store, done: Mapping[str, Artifact], *, fetch: bool, model: bool) -> InputRecord:
    if text.startswith("@"):
        if text[1:] not in done:
            raise PendingError(text)
        return _artifact_input(field, text, done[text[1:]])
    if text == PYTHON:
        return InputRecord(field=field, written=text, digest=_python_digest(store), path=PYTHON)
    path = Path(text).expanduser()
    if not path.exists():
        if artifact := _stored(text, store):
            return _artifact_input(field, text, artifact)
        if not model and not fetch:
            raise PendingError(f"{text}, which is not there")
        path = _model_path(text, fetch=fetch) if model else _no_path(text)
    if (path / "manifest.json").is_file():
        return _artifact_input(field, text, Artifact(path, read_manifest(path)))
    try:
        digest = store.digests.tree(path)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}", hint="check its permissions") from error
    return InputRecord(field=field, written=text, digest=digest, path=str(path.resolve()))


def _artifact_input(field: str, written: str, artifact: Artifact) -> InputRecord:
    return InputRecord(
        field=field, written=written, digest=artifact.manifest.digest, artifact=artifact.id, path=str(artifact.path)
    )


def _stored(text: str, store: Store) -> Artifact | None:
    try:
        return store.get(text)
    except ArtifactError:
        return None


def _model_path(name: str, *, fetch: bool) -> Path:
    if name.startswith((".", "/", "~")) or name.endswith((".gguf", ".safetensors")):
        return _no_path(name)
    local = pull.local_path(name)
    if local is None and not fetch and ("/" in name or name in {row.name for row in pull.known()}):
        raise PendingError(name)
    return local or pull.pull(name)


def _no_path(name: str) -> Path:
    raise DataError(f"there is no file or folder {name}", hint="check the path; relative paths start where you stand")


def _python_digest(store: Store) -> str:
    """Digest of the standard library and the READMEs of installed packages: names relative to their roots, and contents."""
    from lianlu.data.read.python_source import python_files

    rows = [[path.name, store.digests.file(path)] for path in python_files()]
    return sha256_json(rows)


def resolve_model(name: str, store: Store) -> Path:
    """A model named on the command line (`@step`, artifact, model name, path) as a path; fetched if need be."""
    done: dict[str, Any] = {name[1:]: store.get(name)} if name.startswith("@") else {}
    record = _resolve("model", name, store, done, fetch=True, model=True)
    return store.get(record.artifact).path if record.artifact else Path(record.path)
