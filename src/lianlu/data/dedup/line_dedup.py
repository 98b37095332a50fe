"""Lines and paragraphs that a corpus repeats: menus, notices, licences; taken out in all but their first places.

    scored chunks --count--> units/00012.npz, partitions by hash --sum--> what is repeated --find--> line_edits/00012.npz

Twice over the chunks, in a pool of processes. First each chunk writes down its lines and paragraphs (`line_units`) and counts
them by hash; the counts go to partition files, and what is in more documents than allowed is written down in the order of
hashes, with the place from which on it goes. Then each chunk looks its lines up and writes the edits of its documents. Memory
is one partition and one chunk; the outcome does not depend on workers, partitions or the order in which chunks are finished.
Lines that a rule takes out anyway do not count.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.files import atomic_write, disk_errors
from lianlu.core.pool import Engine, in_order
from lianlu.data.dedup.line_units import RULES, units
from lianlu.data.rules.characters import sums
from lianlu.data.rules.edits import LINE, Edit, joined
from lianlu.data.rules.thresholds import Thresholds
from lianlu.data.scores.scored import DOCUMENTS, Chunk

FAMILY = "line_dedup"
EDITS = "line_edits"
UNITS = "units"
_BYTES_PER_PARTITION = 32 << 20
"""Of documents as they are packed on disk."""
_MAX_PARTITIONS = 512
_NEVER = np.iinfo(np.uint32).max
_COUNT = np.dtype([("hash", "<u8"), ("chunk", "<u4"), ("documents", "<u4"), ("places", "<u4")])
_REPEATED = np.dtype([("documents", "<u4"), ("chunk", "<u4"), ("left", "<u4")])
_UNIT = np.dtype([("document", "<u4"), ("start", "<i8"), ("end", "<i8"), ("hash", "<u8")])
_DOCUMENT = np.dtype([("row", "<u4"), ("length", "<i8"), ("limits", "<i8", len(RULES))])
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Work:
    """What every worker needs: where the chunks are, which of their documents count, the rules, where to write."""

    scored: Path
    folder: Path
    thresholds: Thresholds


Job = tuple[int, Rows | None]


def find_repeated(
    scored: Path, folder: Path, rows: Sequence[Rows | None], thresholds: Thresholds, engine: Engine, partitions: int = 0
) -> dict[str, int]:
    """Write the edits for every chunk of `scored` into `folder`; returns how many edits each rule made.

    `rows` has for every chunk, in order, the documents to look at (None: all), those that are kept; the family `line_dedup` of
    `thresholds` has the rules. `partitions` (a power of two; 0: by size) bounds memory. Raises: DataError if a worker dies,
    ArtifactError if the disk is full.
    """
    work = _Work(scored, folder, thresholds)
    count = partitions or _num_partitions(scored)
    parts = folder / "parts"
    with disk_errors(folder):
        parts.mkdir(parents=True, exist_ok=True)
        (folder / UNITS).mkdir(exist_ok=True)
        lowest = _spread(parts, in_order(partial(_counted, work), enumerate(rows), engine, _doing), count)
        _sum(parts, folder, count, lowest, int(thresholds.of(FAMILY)["max_places"]))
        shutil.rmtree(parts)
        made = Counter[str]()
        for _, own in in_order(partial(_edited, work), enumerate(rows), engine, _doing):
            made.update(own)
        shutil.rmtree(folder / UNITS)
        for name in ("repeated.hash", "repeated"):
            (folder / name).unlink()
    return {f"{FAMILY}.{rule}": made[rule] for rule in RULES}


def _num_partitions(scored: Path) -> int:
    """As many as it takes for each to have the lines of some hundred megabytes of text."""
    size = sum(path.stat().st_size for path in scored.glob(f"*{DOCUMENTS}"))
    return min(1 << (size // _BYTES_PER_PARTITION).bit_length(), _MAX_PARTITIONS)


def _doing(job: Job) -> str:
    return f"looked for repeated lines in chunk {job[0]}"


def _counted(work: _Work, job: Job) -> tuple[Any, list[int]]:
    """Write the units of a chunk down; hash, documents and places of each that it holds, and the lowest limit of each rule."""
    documents, found = _units(work, job)
    with atomic_write(_file(work.folder / UNITS, job[0])) as file:
        np.savez(file, documents=documents, units=found)
    order = np.lexsort((found["document"], found["hash"]))
    keys, owners = found["hash"][order], found["document"][order]
    new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    starts = np.flatnonzero(new)
    counts = np.empty(len(starts), _COUNT)
    counts["hash"], counts["chunk"] = keys[starts], job[0]
    counts["documents"] = sums(new | np.append(True, owners[1:] != owners[:-1])[: len(keys)], starts)
    counts["places"] = np.diff(starts, append=len(keys))
    return counts, documents["limits"].min(axis=0, initial=_NEVER).tolist()


def _units(work: _Work, job: Job) -> tuple[Any, Any]:
    """The documents of a chunk that are looked at, and the lines and paragraphs in them."""
    number, rows = job
    chunk = Chunk(work.scored, number)
    chosen = None if rows is None else set(rows.tolist())
    documents = list[tuple[int, int, list[int]]]()
    pieces = [np.empty(0, _UNIT)]
    for row, (document, kind, edits) in enumerate(zip(chunk.documents(), chunk.kinds(), chunk.edits(), strict=True)):
        if chosen is None or row in chosen:
            limits = work.thresholds.of(FAMILY, *kind)
            found = units(document.text, limits, [edit for edit in edits if edit.kind == LINE])
            piece = np.empty(len(found), _UNIT)
            piece["document"], piece["hash"] = len(documents), found.hashes
            piece["start"], piece["end"] = found.starts, found.ends
            pieces.append(piece)
            on = [limits.get(rule, False) for rule in RULES]
            documents.append((row, len(document.text), [_NEVER if limit is False else limit for limit in on]))
    return np.array(documents, _DOCUMENT), np.concatenate(pieces)


def _spread(parts: Path, results: Iterable[tuple[Job, Any]], partitions: int) -> list[int]:
    """Append counts to the partition files their hashes belong to; returns the lowest limit of each rule."""
    lowest = [_NEVER, _NEVER]
    with ExitStack() as stack:
        files = [stack.enter_context(open(parts / f"{number:04d}", "wb")) for number in range(partitions)]
        for _, (counts, own) in results:
            lowest = [min(pair) for pair in zip(lowest, own, strict=True)]
            ends = np.searchsorted(_partition(counts["hash"], partitions), np.arange(partitions), side="right")
            for file, piece in zip(files, np.split(counts, ends[:-1]), strict=True):
                file.write(piece.tobytes())
    return lowest


def _partition(hashes: npt.NDArray[np.uint64], partitions: int) -> Any:
    """The first bits of a hash say where it belongs, so that partitions one after another are in order."""
    bits = partitions.bit_length() - 1
    return hashes >> np.uint64(64 - bits) if bits else np.zeros(len(hashes), np.uint64)


def _sum(parts: Path, folder: Path, partitions: int, lowest: Sequence[int], max_places: int) -> None:
    """What is in more documents than the lowest limit allows, in the order of hashes."""
    with open(folder / "repeated.hash", "wb") as hashes, open(folder / "repeated", "wb") as rest:
        for number in range(partitions):
            keys, found = repeated(np.fromfile(parts / f"{number:04d}", _COUNT), lowest, max_places)
            hashes.write(keys.tobytes())
            rest.write(found.tobytes())


def repeated(counts: Any, lowest: Sequence[int], max_places: int) -> tuple[npt.NDArray[np.uint64], Any]:
    """Hashes in more documents than `lowest` (for lines, for paragraphs), and from which place on they go.

    `chunk` is the one with the last place that stays and `left` how many stay in it.
    """
    counts = counts[np.lexsort((counts["chunk"], counts["hash"]))]
    starts = np.flatnonzero(np.diff(counts["hash"], prepend=counts["hash"][:1] ^ np.uint64(1)))
    if not len(starts):
        return np.empty(0, np.uint64), np.empty(0, _REPEATED)
    documents = np.add.reduceat(counts["documents"].astype(np.int64), starts)
    places = counts["places"].astype(np.int64)
    sums = np.cumsum(places)
    before = sums - places - np.repeat((sums - places)[starts], np.diff(starts, append=len(counts)))
    reached = np.where(before + places >= max_places, np.arange(len(counts)), len(counts))
    last = np.minimum.reduceat(reached, starts)
    table = np.empty(len(starts), _REPEATED)
    table["documents"] = documents
    inner = np.minimum(last, len(counts) - 1)
    table["chunk"] = np.where(last < len(counts), counts["chunk"][inner], _NEVER)
    table["left"] = np.where(last < len(counts), max_places - before[inner], 0)
    keys = counts["hash"][starts]
    chosen = documents > np.asarray(lowest)[(keys & np.uint64(1)).astype(np.int64)]
    return keys[chosen], table[chosen]


def _edited(work: _Work, job: Job) -> Counter[str]:
    """Write the edits of a chunk; returns how many each rule made."""
    with np.load(_file(work.folder / UNITS, job[0]), allow_pickle=False) as arrays:
        documents, found = arrays["documents"], arrays["units"]
    taken: dict[int, int] = {}
    removed, made = Counter[int](), Counter[str]()
    edits: list[tuple[int, int, int, int]] = []
    for owner, start, end, hashed in found[_going(work, job[0], documents, found)].tolist():
        if start >= taken.get(owner, 0):  # a line of a paragraph that goes is gone with it
            edits.append((documents["row"][owner], start, end, hashed & 1))
            made[RULES[hashed & 1]] += 1
            taken[owner] = end
            removed[owner] += end - start
    gone = [(documents["row"][owner], chars / documents["length"][owner]) for owner, chars in removed.items()]
    with atomic_write(_file(work.folder, job[0])) as file:
        np.savez(file, edits=np.array(edits, np.int64).reshape(-1, 4), gone=np.array(gone, np.float64).reshape(-1, 2))
    return made


def _going(work: _Work, number: int, documents: Any, found: Any) -> Rows:
    """Those of a chunk's units that go: the corpus repeats them, and this occurrence comes after the last that stays."""
    keys, table = (_array(work.folder / name, kind) for name, kind in (("repeated.hash", np.uint64), ("repeated", _REPEATED)))
    places = np.searchsorted(keys, found["hash"])
    inside = np.flatnonzero(places < len(keys))
    met = inside[keys[places[inside]] == found["hash"][inside]]
    entries, hashed = table[places[met]], found["hash"][met]
    limits = documents["limits"][found["document"][met], (hashed & np.uint64(1)).astype(np.int64)]
    later = (number == entries["chunk"]) & (_occurrence(hashed) > entries["left"])
    goes: Rows = met[((number > entries["chunk"]) | later) & (entries["documents"] > limits)]
    return goes


def _occurrence(keys: npt.NDArray[np.uint64]) -> Rows:
    """For each key the how-manieth of its kind it is, from 1."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(keys)])
    nth = np.empty(len(keys), np.int64)
    nth[order] = np.arange(len(keys)) - np.repeat(firsts, np.diff(firsts, append=len(keys))) + 1
    return nth


def read_edits(folder: Path, number: int, num_documents: int) -> list[list[Edit]]:
    """The edits of every document of a chunk, in order."""
    found: list[list[Edit]] = [[] for _ in range(num_documents)]
    with np.load(_file(folder, number), allow_pickle=False) as arrays:
        for row, start, end, is_paragraph in arrays["edits"].tolist():
            found[row].append(Edit(start, end, "", LINE, f"{FAMILY}.{RULES[is_paragraph]}"))
    return found


def read_left(folder: Path, number: int, num_documents: int) -> npt.NDArray[np.float64]:
    """The share of its characters (0..1) that every document of a chunk keeps."""
    left = np.ones(num_documents)
    with np.load(_file(folder, number), allow_pickle=False) as arrays:
        left[arrays["gone"][:, 0].astype(np.int64)] -= arrays["gone"][:, 1]
    return left


def with_repeated(own: Sequence[Edit], repeated_lines: Sequence[Edit]) -> list[Edit]:
    """The edits of a document and these together: lines first, personal data only where no line goes."""
    lines = joined([edit for edit in own if edit.kind == LINE], repeated_lines)
    return joined(lines, [edit for edit in own if edit.kind != LINE])


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npz"


def _array(path: Path, kind: Any) -> Any:
    """A memory map of what is repeated; a map cannot be empty."""
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)
