"""The list of what `lianlu data forget` took out: a later run of clean or repositories that reads the same source leaves it out.

    .lianlu/forgotten.jsonl    {"at": "2025-01-02T03:04:05.678Z", "sha256": "..."} a line: SHA-256 of the id or URL

The list says nothing about a document but a hash, and neither does the rejection on record (`read.forgotten` or
`extract.forgotten`; repositories count them). A line is found by `printf %s URL | sha256sum` and may be deleted to let the
document in again. Copies named `x~2` are meant by `x`.

Limits: the same text under another id and URL is another document. Stages but these two read what they are given. The list
belongs to a store, so that another store, or a copy of the data elsewhere, has to be told too. A run that is at work while a
document is forgotten has read the list before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lianlu.core.errors import ArtifactError
from lianlu.core.files import write_text
from lianlu.core.store import now
from lianlu.data.rules.thresholds import Verdict
from lianlu.data.scores.unique import COPY
from lianlu.formats.documents import Document

LIST = "forgotten.jsonl"


class Named(Protocol):
    """Anything with an id; documents have a URL too."""

    @property
    def id(self) -> str: ...


@dataclass(frozen=True)
class Forgotten:
    """Hashes of ids and URLs that are not read again."""

    hashes: frozenset[str] = frozenset()

    def verdict(self, thing: Named, step: str = "read") -> Verdict | None:
        """Whether a document that has come to this step is on the list."""
        if not self.hashes:
            return None
        names = {thing.id, COPY.sub("", thing.id), getattr(thing, "url", "")} - {""}
        found = next((digest for digest in sorted(map(hashed, names)) if digest in self.hashes), "")
        return Verdict(f"{step}.forgotten", found[:12], "not forgotten") if found else None

    def stub(self, verdict: Verdict) -> Document:
        """What the ledger may know of a forgotten document: a hash."""
        return Document(f"sha256:{verdict.value}", "")


def hashed(name: str) -> str:
    """SHA-256 of an id or a URL, as hex."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def forgotten_at(folder: Path) -> Forgotten:
    """The list of the store that a stage works in; `folder` is where the stage works (`STORE/work/ID`)."""
    return read(folder.parent.parent)


def read(store: Path) -> Forgotten:
    """The list of a store; empty if it has none. Raises: ArtifactError if it is damaged: reading on would let documents in."""
    path = store / LIST
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return Forgotten(frozenset(str(json.loads(line)["sha256"]) for line in lines if line.strip()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"cannot read {path}: {error}", hint="mend the line, or delete it and forget its document again"
        ) from error


def add(store: Path, name: str) -> None:
    """Put an id or a URL on the list; it is there when this returns."""
    digest = hashed(name)
    if digest not in read(store).hashes:
        path = store / LIST
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        write_text(path, before + json.dumps({"at": now(), "sha256": digest}) + "\n")
