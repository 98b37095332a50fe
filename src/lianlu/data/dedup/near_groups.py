"""Near duplicates of a corpus that is larger than memory: documents are grouped in files, and the groups compared by workers.

    keys --band by band--> groups that share a key --linked--> clusters --by hash--> partitions --workers--> duplicates

Two documents can decide about each other only if a chain of shared keys leads from one to the other; so the clusters that such
chains make are decided apart from each other, and the outcome depends on neither partitions nor workers. In memory are one
column of keys and its order (28 bytes a document) beside two words a document; more only where documents share keys, and
there a partition at a time. A cluster is never split: its documents are held together, some 20 bytes for each shared key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.pool import Engine, Here, in_order
from lianlu.data.dedup.near_dedup import NUM_BANDS, PAIR, Longs, find_duplicates, shared
from lianlu.data.dedup.spill import Spill, num_partitions
from lianlu.data.rules.characters import Hashes, mixed

FOUND = np.dtype([("document", "<u4"), ("kept", "<u4"), ("similarity", "<f8")])
"""A document that repeats one that is kept, and how similar they are (0..1)."""
_MEMBER = np.dtype([("place", "<u4"), ("group", "<i8")])
_BLOCK = 1 << 16
Numbers = npt.NDArray[np.uint32]
Sets = Callable[[int], Hashes]


@dataclass(frozen=True)
class Columns:
    """What is compared: the numbers of documents that have shingles, in order; their lengths, and their keys in each band."""

    documents: Numbers
    lengths: Callable[[], Longs]
    band: Callable[[int], Hashes]


def near_duplicates(columns: Columns, sets: Sets, min_jaccard: float, folder: Path, engine: Engine) -> npt.NDArray[Any]:
    """The documents to drop, in order, of kind `FOUND`; `sets` gives the shingles of a document, also in another process.

    `folder` is for files on the way. Raises: DataError if a worker dies.
    """
    with Spill(folder / "members", _MEMBER, NUM_BANDS) as members:
        roots, count = _linked(columns, members)
    with Spill(folder / "clusters", PAIR, num_partitions(count)) as clusters:
        _spread(columns, members, roots, clusters)
    del roots
    paths = [path for path in clusters.paths if path.stat().st_size]
    work = partial(_decided, sets, min_jaccard)
    with closing(in_order(work, paths, engine if len(paths) > 1 else Here(), _doing)) as results:
        found = np.concatenate([np.empty(0, FOUND), *(own for _, own in results)])
    return found[np.argsort(found["document"], kind="stable")]


def _linked(columns: Columns, members: Spill) -> tuple[Numbers, int]:
    """Write the groups of every band; returns for each place the first of its cluster, and how many were written."""
    roots = np.arange(len(columns.documents), dtype=np.uint32)
    groups = written = 0
    for number in range(NUM_BANDS):
        places, keys = shared(columns.band(number))
        if not len(places):
            continue
        records = np.empty(len(places), _MEMBER)
        records["place"], records["group"] = places, keys + groups
        members.put(number, records)
        firsts = np.flatnonzero(np.diff(keys, prepend=-1))
        roots = linked(roots, places, places[firsts][keys])
        groups += int(keys[-1]) + 1
        written += len(places)
    return roots, written


def linked(roots: Numbers, some: Longs, others: Longs) -> Numbers:
    """Join the clusters of each two of these places; a cluster is known by its first place."""
    while True:
        one, other = roots[some], roots[others]
        apart = one != other
        if not apart.any():
            return roots
        some, others = some[apart], others[apart]
        np.minimum.at(roots, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while not np.array_equal(further := roots[roots], roots):
            roots = further


def _spread(columns: Columns, members: Spill, roots: Numbers, clusters: Spill) -> None:
    """Bring the documents of each cluster together, with their lengths."""
    lengths = columns.lengths()
    for number in range(NUM_BANDS):
        for records in _blocks(members.paths[number]):
            places = records["place"]
            pairs = np.empty(len(places), PAIR)
            pairs["document"], pairs["length"], pairs["group"] = columns.documents[places], lengths[places], records["group"]
            clusters.add(pairs, mixed(roots[places].astype(np.uint64)))


def _blocks(path: Path) -> Iterator[npt.NDArray[Any]]:
    with open(path, "rb") as file:
        while len(records := np.fromfile(file, _MEMBER, _BLOCK)):
            yield records


def _decided(sets: Sets, min_jaccard: float, path: Path) -> npt.NDArray[Any]:
    """The duplicates in one partition."""
    return np.array(list(find_duplicates(np.fromfile(path, PAIR), sets, min_jaccard)), FOUND)


def _doing(path: Path) -> str:
    return f"compared near duplicates in {path.name}"
