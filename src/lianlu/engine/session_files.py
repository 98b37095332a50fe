"""The files of kept sessions: records of keys and values named by content, and one small manifest for each session.

    FOLDER/FINGERPRINT/blocks/DIGEST.kv       keys and values of one full block, shared by all sessions that begin alike
    FOLDER/FINGERPRINT/sessions/HASH.json     a session: its name, its tokens, and the digests of its blocks

The fingerprint stands for the model, its numbers and how they are kept; the digest for all tokens up to the end of the block
and for who may share them (`engine.blocks.chain`). A record has a header with both and a checksum over header and content, and
one that is not what its name says is removed, never used. When a session was used is its manifest's time of change.

Several processes may work in one folder. Files appear whole under their names; a manifest is written before its records,
and whoever clears up lists records before manifests, so that no record which is just being kept looks forgotten. What
one process removes under the hands of another is a block less to find, nothing worse. No tensors here.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from lianlu.core.config import Config
from lianlu.core.files import atomic_write, write_text

HEADER = struct.Struct("<8sIIQ16s16s16s")
MAGIC = b"lianluKV"
VERSION = 1
MODEL = re.compile("[0-9a-f]{32}")
"""Names of the folders that are looked into; others are none of ours."""
LEFTOVER_S = 3600.0
"""Age at which an unfinished file belongs to nobody."""


class Manifest(Config):
    """What is kept of a session; `owner` stands for whose it is, "" for nobody's."""

    version: Literal[1] = 1
    name: str
    owner: str
    tokens: tuple[int, ...]
    digests: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")], ...]


@dataclass(frozen=True)
class _Entry:
    """A manifest on disk."""

    path: Path
    used_s: float
    num_bytes: int
    digests: tuple[str, ...]


class SessionFiles:
    """The files of one model in a folder of sessions."""

    def __init__(self, folder: Path, fingerprint: bytes, block_bytes: int) -> None:
        """Makes the folders, for the owner's eyes only. Raises: OSError."""
        self.folder = folder
        self._fingerprint = fingerprint
        self._block_bytes = block_bytes
        self._blocks = folder / fingerprint.hex() / "blocks"
        self._sessions = folder / fingerprint.hex() / "sessions"
        self._known: dict[Path, _Entry] = {}
        """Manifests that `clear_up` has read, so that it need not do so again."""
        for made in (folder, self._blocks.parent, self._blocks, self._sessions):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def record_bytes(self) -> int:
        """Size of a record on disk."""
        return HEADER.size + self._block_bytes

    def has(self, digest: bytes) -> bool:
        """Whether there is a record; it may still turn out damaged."""
        return os.path.exists(self._record(digest))

    def write(self, digest: bytes, content: memoryview) -> None:
        """Keep a block. Raises: ArtifactError if the disk does not take it."""
        assert len(content) == self._block_bytes
        with atomic_write(self._record(digest)) as file:
            file.write(self._header(digest, content))
            file.write(content)

    def read(self, digest: bytes, into: memoryview) -> str:
        """Fill `into` with a block; what is wrong with the record, which is removed then, or "".

        Raises: OSError if it cannot be read or is gone.
        """
        path = self._record(digest)
        with open(path, "rb", buffering=0) as file:
            header = file.read(HEADER.size)
            num_read = file.readinto(into)
            whole = num_read == len(into) == self._block_bytes and not file.read(1)
        if whole and header == self._header(digest, into):
            return ""
        path.unlink(missing_ok=True)
        return _reason(header, self._fingerprint, digest, whole)

    def save(self, manifest: Manifest) -> None:
        """Keep a manifest. Raises: ArtifactError if the disk does not take it."""
        write_text(self._manifest(manifest.name, manifest.owner), manifest.model_dump_json())

    def touch(self, name: str, owner: str) -> None:
        """Note that a session is used now, if there is such a one. Raises: OSError."""
        path = self._manifest(name, owner)
        if path.exists():
            os.utime(path)

    def forget(self, name: str, owner: str) -> bool:
        """Remove a manifest; whether there was one. Its records go when `clear_up` finds that nobody else has them."""
        try:
            self._manifest(name, owner).unlink()
        except FileNotFoundError:
            return False
        return True

    def manifests(self) -> Iterator[tuple[Manifest, float]]:
        """All sessions of this model, and when they were used (seconds since 1970)."""
        for entry in _scan(self._sessions, ".json"):
            manifest = _parse(Path(entry.path))
            if manifest is not None:
                yield manifest, _state(entry)[1]

    def clear_up(self, max_bytes: int) -> int:
        """Remove records that no session has, then the sessions longest unused until the folder holds `max_bytes`.

        All models in the folder count. Returns the number of sessions removed; damaged manifests are removed as well.
        """
        models = [Path(entry.path) for entry in os.scandir(self.folder) if MODEL.fullmatch(entry.name) and entry.is_dir()]
        records = {model: _records(model) for model in models}
        sessions = [(model, entry) for model in models for entry in self._entries(model)]
        self._known = {entry.path: entry for _, entry in sessions}
        sessions.sort(key=lambda item: item[1].used_s)
        users = Counter((model, digest) for model, entry in sessions for digest in entry.digests)
        total = sum(entry.num_bytes for _, entry in sessions)
        for model, sizes in records.items():
            for digest in [digest for digest in sizes if (model, digest) not in users]:
                _unlink(model, digest)
                del sizes[digest]
            total += sum(sizes.values())
        num_removed = 0
        while total > max_bytes and num_removed < len(sessions):
            model, entry = sessions[num_removed]
            entry.path.unlink(missing_ok=True)
            users.subtract((model, digest) for digest in entry.digests)
            gone = [digest for digest in set(entry.digests) if not users[model, digest]]
            for digest in gone:
                _unlink(model, digest)
            total -= entry.num_bytes + sum(records[model].pop(digest, 0) for digest in gone)
            num_removed += 1
        return num_removed

    def _entries(self, model: Path) -> Iterator[_Entry]:
        for found in _scan(model / "sessions", ".json"):
            path, (num_bytes, used_s) = Path(found.path), _state(found)
            known = self._known.get(path)
            if known is None or known.num_bytes != num_bytes or known.used_s != used_s:
                manifest = _parse(path)
                known = None if manifest is None else _Entry(path, used_s, num_bytes, manifest.digests)
            if known is not None:
                yield known

    def _record(self, digest: bytes) -> Path:
        return self._blocks / f"{digest.hex()}.kv"

    def _manifest(self, name: str, owner: str) -> Path:
        key = blake2b(f"{owner}\0{name}".encode(), digest_size=16).hexdigest()
        return self._sessions / f"{key}.json"

    def _header(self, digest: bytes, content: memoryview) -> bytes:
        fields = (MAGIC, VERSION, 0, len(content), self._fingerprint, digest)
        check = blake2b(HEADER.pack(*fields, b""), digest_size=16)
        check.update(content)
        return HEADER.pack(*fields, check.digest())


def _reason(header: bytes, fingerprint: bytes, digest: bytes, whole: bool) -> str:
    """Why a record is not used, for people."""
    if len(header) < HEADER.size or header[: len(MAGIC)] != MAGIC:
        return "it is no record of keys and values"
    _, version, _, _, own_fingerprint, own_digest, _ = HEADER.unpack(header)
    if version != VERSION:
        return f"it has format {version}"
    if own_fingerprint != fingerprint:
        return "it belongs to another model or another form of keys and values"
    if own_digest != digest:
        return "it belongs to another text"
    return "its checksum is wrong" if whole else "it is cut off or too long"


def _parse(path: Path) -> Manifest | None:
    """A manifest; None if it is not there, and also if it is damaged: then it is removed."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        path.unlink(missing_ok=True)
    except OSError:
        pass
    return None


def _scan(folder: Path, suffix: str) -> list[os.DirEntry[str]]:
    """Files of a folder, in order of their names; what an interrupted process left behind is removed."""
    found = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    for entry in entries:
        if entry.name.startswith("."):
            _remove_leftover(entry)
        elif entry.name.endswith(suffix):
            found.append(entry)
    return found


def _remove_leftover(entry: os.DirEntry[str]) -> None:
    if entry.name.endswith(".tmp") and time.time() - _state(entry)[1] > LEFTOVER_S:
        Path(entry.path).unlink(missing_ok=True)


def _state(entry: os.DirEntry[str]) -> tuple[int, float]:
    """Size and time of change; nothing, and now, for what has just gone."""
    try:
        state = entry.stat()
    except FileNotFoundError:
        return 0, time.time()
    return state.st_size, state.st_mtime


def _records(model: Path) -> dict[str, int]:
    """Sizes of a model's records by digest."""
    return {entry.name.removesuffix(".kv"): _state(entry)[0] for entry in _scan(model / "blocks", ".kv")}


def _unlink(model: Path, digest: str) -> None:
    (model / "blocks" / f"{digest}.kv").unlink(missing_ok=True)


def on_disk(files: SessionFiles, digests: Sequence[bytes]) -> int:
    """How many digests from the first on have a record."""
    return next((index for index, digest in enumerate(digests) if not files.has(digest)), len(digests))
