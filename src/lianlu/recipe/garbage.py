"""What a store no longer needs: nothing named by a step, nor what such an artifact was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lianlu.core.errors import ArtifactError
from lianlu.core.files import files_below
from lianlu.core.lineage import build_graph, reachable
from lianlu.core.store import Store, read_manifest


@dataclass(frozen=True)
class Garbage:
    """A folder that may go, and why."""

    path: Path
    why: str
    bytes: int
    damaged: bool = False


def find_garbage(store: Store) -> list[Garbage]:
    """Damaged artifacts, artifacts out of use, and work that was stopped and whose artifact was made since or never."""
    nodes = build_graph(store.list())
    kept: set[str] = set()
    for artifact_id in store.names().values():
        if artifact_id in nodes:
            kept |= reachable(nodes, artifact_id, upstream=True)
    rows = []
    for folder in sorted((store.root / "artifacts").glob("*")):
        try:
            read_manifest(folder)
        except ArtifactError as error:
            rows.append(Garbage(folder, error.message, _size(folder), damaged=True))
            continue
        if folder.name not in kept:
            rows.append(Garbage(folder, "no current step was made from it", _size(folder)))
    rows += [Garbage(folder, "unfinished", _size(folder)) for folder in sorted((store.root / "work").glob("*"))]
    return rows


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_below(folder))


def remove(store: Store, row: Garbage) -> int:
    """Delete one; waits for a process that is at work on it. Returns the bytes freed."""
    with store.lock(row.path.name):
        return store.remove(row.path)
