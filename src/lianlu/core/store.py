"""The artifact store: stages exchange folders on disk, addressed by what they were made from.

    .lianlu/
      artifacts/STAGE-KEY12/   a finished artifact: its files and, written last, manifest.json
      work/STAGE-KEY12/        a stage at work; kept when it is killed, so that it continues from there
      locks/STAGE-KEY12        held (flock) while that artifact is being made; a dead process holds nothing
      names.json               step name -> artifact id, as of the last run
      digests.json             content hashes of outside files, by size and time

The key of an artifact is a hash of stage, stage version, the canonical config (inputs replaced by their content digests).
Its digest is a hash of kind and file contents, without `logs/`: two artifacts with equal digests are the same thing, and
a step whose inputs have equal digests is not run again. No manifest, no artifact.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lianlu.core.errors import ArtifactError
from lianlu.core.files import (
    DigestCache,
    disk_errors,
    files_below,
    remove_leftovers,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)

FORMAT = 1
LOGS = "logs"
# in the folder of a stage at work: the name of its step
STEP = ".step"


class FileRecord(BaseModel):
    """One file of an artifact: path relative to its folder, size, and hash of its bytes."""

    path: str
    bytes: int
    sha256: str


class InputRecord(BaseModel):
    """What a config field pointed to: the text the user wrote, the content digest, and the artifact id or path."""

    field: str
    written: str
    digest: str
    artifact: str = ""
    path: str = ""


class Manifest(BaseModel):
    """All that is known about a finished artifact."""

    format: int = FORMAT
    id: str
    kind: str
    stage: str
    stage_version: int
    step: str
    key: str
    digest: str
    config: dict[str, Any]
    inputs: list[InputRecord]
    files: list[FileRecord]
    figures: dict[str, Any]
    lianlu: str
    git: str
    device: str
    started: str
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id


@dataclass
class Output:
    """What a stage writes into: `path` is its folder (kept if killed), `figures` end up in the manifest.

    Files below `logs` may differ between runs (times, rates); everything else must be a function of config and inputs.
    """

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        folder = self.path / LOGS
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Store:
    """A folder of artifacts. Safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.digests = DigestCache(root / "digests.json")

    @staticmethod
    def locate(start: Path | None = None) -> Store:
        """The store of `LIANLU_HOME`, else the nearest `.lianlu` above `start` (default: here), else `.lianlu` in it."""
        if home := os.environ.get("LIANLU_HOME"):
            return Store(Path(home).expanduser().resolve())
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / ".lianlu").is_dir():
                return Store(folder / ".lianlu")
        return Store(here / ".lianlu")

    # -- finished artifacts

    def find(self, artifact_id: str) -> Artifact | None:
        """The finished artifact with this id, or None. Raises: ArtifactError if it is there but damaged."""
        folder = self.root / "artifacts" / artifact_id
        return Artifact(folder, read_manifest(folder)) if folder.is_dir() else None

    def get(self, name: str) -> Artifact:
        """An artifact by id, by a unique beginning of its id or digest, or by `@step`. Raises: ArtifactError."""
        wanted = self.names().get(name[1:], name) if name.startswith("@") else name
        if wanted and (found := self.find(wanted)):
            return found
        matches = [a for a in self.list() if wanted and (a.id.startswith(wanted) or a.manifest.digest.startswith(wanted))]
        if len({a.manifest.digest for a in matches}) == 1:
            return matches[-1]
        if matches:
            raise ArtifactError(f"{name} fits several artifacts: {', '.join(a.id for a in matches)}", hint="give more characters")
        raise ArtifactError(f"there is no artifact {name} in {self.root}", hint="`lianlu ls` lists what is there")

    def list(self) -> list[Artifact]:
        """All readable artifacts, oldest first."""
        found = []
        for folder in sorted((self.root / "artifacts").glob("*")):
            with contextlib.suppress(ArtifactError):
                found.append(Artifact(folder, read_manifest(folder)))
        return sorted(found, key=lambda a: (a.manifest.started, a.id))

    def names(self) -> dict[str, str]:
        """Step name -> artifact id, as of the last runs."""
        try:
            return dict(json.loads((self.root / "names.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def set_name(self, step: str, artifact_id: str) -> None:
        """Let `@step` mean this artifact from now on."""
        with self.lock("names"):
            names = self.names()
            if names.get(step) != artifact_id:
                write_json(self.root / "names.json", {**names, step: artifact_id})

    # -- making artifacts

    @contextlib.contextmanager
    def lock(self, name: str, on_wait: Any = None) -> Iterator[None]:
        """Hold the lock `name`; calls `on_wait()` once if another process holds it."""
        path = self.root / "locks" / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (self.root / ".gitignore").exists():
                write_text(self.root / ".gitignore", "*\n")
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def work(self, artifact_id: str, step: str = "") -> Path:
        """The folder a stage works in for `step`; what an earlier, killed run finished there is still there."""
        folder = self.root / "work" / artifact_id
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            if step:
                (folder / STEP).write_text(step, encoding="utf-8")
        return folder

    def unfinished(self, name: str = "") -> tuple[Path, ...]:
        """Folders of stages at work or killed, that `name` means: @step, or the beginning of an id (empty: all); newest last."""
        found = []
        for folder in (self.root / "work").glob("*"):
            step = folder / STEP
            known = step.read_text(encoding="utf-8") if step.is_file() else folder.name.rpartition("-")[0]
            if known == name[1:] if name.startswith("@") else folder.name.startswith(name):
                found.append(folder)
        return tuple(sorted(found, key=lambda folder: folder.stat().st_mtime))

    def is_locked(self, name: str) -> bool:
        """Whether a process holds the lock `name`: whether that artifact is being made now."""
        try:
            handle = os.open(self.root / "locks" / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def publish(self, out: Output, draft: Mapping[str, Any]) -> Artifact:
        """Hash the files of `out`, write the manifest last, and move the folder to its place.

        `draft` holds the manifest fields that the caller knows; `id` names the folder.
        """
        (out.path / STEP).unlink(missing_ok=True)
        remove_leftovers(out.path)  # a worker may have been killed in this run
        files = [
            FileRecord(path=str(path.relative_to(out.path)), bytes=path.stat().st_size, sha256=sha256_file(path))
            for path in files_below(out.path)
            if path.name != "manifest.json"
        ]
        manifest = Manifest(**{**draft, "files": files, "digest": digest_of(draft["kind"], files), "figures": out.figures})
        write_json(out.path / "manifest.json", manifest.model_dump(mode="json"))
        final = self.root / "artifacts" / manifest.id
        with disk_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(out.path, final)
        return Artifact(final, manifest)

    # -- care

    def remove(self, folder: Path) -> int:
        """Delete an artifact or work folder; returns the bytes freed. The manifest goes first."""
        freed = sum(path.stat().st_size for path in files_below(folder))
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        return freed


def digest_of(kind: str, files: Sequence[FileRecord]) -> str:
    """The content digest of an artifact of this kind with these files; logs do not count."""
    return sha256_json([kind, [[file.path, file.sha256] for file in files if not file.path.startswith(LOGS + "/")]])


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of an artifact folder; file sizes are compared, contents are not.

    Raises: ArtifactError that names the file and says how to mend it.
    """
    path = folder / "manifest.json"
    mend = f"`lianlu gc --damaged` removes it ({folder}); running the recipe again makes it anew"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = raw.get("format") if isinstance(raw, dict) else None
        if isinstance(found, int) and found > FORMAT:
            raise ArtifactError(
                f"{path} has format {found}, this lianlu reads up to {FORMAT}", hint="upgrade lianlu, or use another store"
            )
        manifest = Manifest.model_validate(raw)
    except (OSError, ValueError, ValidationError) as error:
        raise ArtifactError(f"{path} is damaged: {type(error).__name__}", hint=mend) from error
    for record in manifest.files:
        file = folder / record.path
        size = file.stat().st_size if file.exists() else -1
        if size != record.bytes:
            state = "is missing" if size < 0 else f"has {size} bytes where {record.bytes} were written"
            raise ArtifactError(f"{file} {state}", hint=mend)
    return manifest


def damaged_files(artifact: Artifact) -> list[str]:
    """Paths whose bytes no longer have the recorded hash (reads everything)."""
    return [r.path for r in artifact.manifest.files if sha256_file(artifact.path / r.path) != r.sha256]


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"
