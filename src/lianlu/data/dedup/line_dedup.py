"""Lines and paragraphs that a corpus repeats: menus, notices, licences; taken out in all but their first places.

    scored chunks --count--> partitions by hash --sum--> what is repeated --find--> line_edits/00012.npz

Twice over the chunks, in a pool of processes. First each chunk counts its lines and paragraphs by hash; the counts go to
partition files, and what is in more documents than allowed is written down in the order of hashes, with the place from which
on it goes. Then each chunk looks its lines up and writes the edits of its documents. Memory is one partition and one chunk;
the outcome does not depend on workers, partitions or the order in which chunks are finished.

Two lines are the same when their letters and digits are, whatever the case and which digits (CCNet, arXiv 1911.00359); in a
line with a link digits count, since links of one site differ in nothing else. A paragraph is two lines or more between blank
lines. Lines that a rule takes out anyway do not count.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.core.files import atomic_write, disk_errors
from lianlu.core.pool import Engine, in_order
from lianlu.data.rules.edits import LINE, Edit, joined
from lianlu.data.rules.thresholds import Limits, Thresholds
from lianlu.data.scores.scored import DOCUMENTS, Chunk

FAMILY = "line_dedup"
RULES = ("max_line_documents", "max_paragraph_documents")
"""Rules for lines and for paragraphs; the lowest bit of a hash says which of them it is."""
EDITS = "line_edits"
_BYTES_PER_PARTITION = 32 << 20
"""Of documents as they are packed on disk."""
_MAX_PARTITIONS = 512
_NEVER = np.iinfo(np.uint32).max
_COUNT = np.dtype([("hash", "<u8"), ("chunk", "<u4"), ("documents", "<u4"), ("places", "<u4")])
_REPEATED = np.dtype([("documents", "<u4"), ("chunk", "<u4"), ("left", "<u4")])
_NO_WORD = re.compile(r"[^\w\n]+")
_DIGIT = re.compile(r"\d")
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Unit:
    """A line (with its break) or a paragraph of a text, and its hash."""

    start: int
    end: int
    hash: int

    @property
    def rule(self) -> str:
        """The rule that it may break."""
        return RULES[self.hash & 1]


def units(text: str, limits: Limits, gone: Sequence[Edit] = ()) -> Iterator[Unit]:
    """The paragraphs and lines of a normalised text that rules look at, in order, a paragraph before its lines.

    `limits` has the rules and `min_chars`, the fewest letters and digits; `gone` are lines that are taken out anyway.
    """
    on = [limits.get(rule, False) is not False for rule in RULES]
    if not any(on):
        return
    forms = _forms(text)
    for block in _blocks(text, gone):
        for is_paragraph, members in ((1, [block] if len(block) > 1 else []), (0, [[line] for line in block])):
            for lines in members if on[is_paragraph] else []:
                form = "\n".join(forms[number] for number, _, _ in lines)
                if len(form) >= limits["min_chars"]:
                    hashed = xxhash.xxh3_64_intdigest(form.encode("utf-8", "replace"))
                    yield Unit(lines[0][1], lines[-1][2], hashed & ~1 | is_paragraph)


def _forms(text: str) -> list[str]:
    """What is compared of every line: letters in lower case and digits, which all count as zero but in links."""
    plain = _NO_WORD.sub("", text.lower())
    forms = _DIGIT.sub("0", plain).split("\n")
    if "://" in text:
        for number, (line, own) in enumerate(zip(text.split("\n"), plain.split("\n"), strict=True)):
            if "://" in line:
                forms[number] = own
    return forms


def _blocks(text: str, gone: Sequence[Edit]) -> Iterator[list[tuple[int, int, int]]]:
    """Runs of lines without a blank one or one that is gone between them, each line as (number, start, end)."""
    starts = [edit.start for edit in gone]
    block: list[tuple[int, int, int]] = []
    start = 0
    for number, line in enumerate(text.split("\n")):
        end = min(start + len(line) + 1, len(text))
        before = bisect_right(starts, max(end - 1, start)) - 1
        if line.strip() and (before < 0 or gone[before].end <= start):
            block.append((number, start, end))
        elif block:
            yield block
            block = []
        start += len(line) + 1
    if block:
        yield block


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
        lowest = _spread(parts, in_order(partial(_counted, work), enumerate(rows), engine, _doing), count)
        _sum(parts, folder, count, lowest, int(thresholds.of(FAMILY)["max_places"]))
        shutil.rmtree(parts)
        made = Counter[str]()
        for _, own in in_order(partial(_edited, work), enumerate(rows), engine, _doing):
            made.update(own)
        for name in ("repeated.hash", "repeated"):
            (folder / name).unlink()
    return {f"{FAMILY}.{rule}": made[rule] for rule in RULES}


def _num_partitions(scored: Path) -> int:
    """As many as it takes for each to have the lines of some hundred megabytes of text."""
    size = sum(path.stat().st_size for path in scored.glob(f"*{DOCUMENTS}"))
    return min(1 << (size // _BYTES_PER_PARTITION).bit_length(), _MAX_PARTITIONS)


def _doing(job: Job) -> str:
    return f"looked for repeated lines in chunk {job[0]}"


def _documents(work: _Work, job: Job) -> Iterator[tuple[int, int, list[Unit], Limits]]:
    """Row, length in characters, units and limits of each document that is looked at."""
    number, rows = job
    chunk = Chunk(work.scored, number)
    chosen = None if rows is None else set(rows.tolist())
    for row, (document, kind, edits) in enumerate(zip(chunk.documents(), chunk.kinds(), chunk.edits(), strict=True)):
        if chosen is None or row in chosen:
            limits = work.thresholds.of(FAMILY, *kind)
            yield (
                row,
                len(document.text),
                list(units(document.text, limits, [edit for edit in edits if edit.kind == LINE])),
                limits,
            )


def _counted(work: _Work, job: Job) -> tuple[Any, list[int]]:
    """Hash, documents and places of what a chunk holds, and the lowest limit of each rule in it."""
    documents, places = Counter[int](), Counter[int]()
    lowest = [_NEVER, _NEVER]
    for *_, found, limits in _documents(work, job):
        hashes = [unit.hash for unit in found]
        places.update(hashes)
        documents.update(set(hashes))
        own = [limits.get(rule, False) for rule in RULES]
        lowest = [low if limit is False else min(low, limit) for low, limit in zip(lowest, own, strict=True)]
    counts = np.empty(len(places), _COUNT)
    counts["hash"] = np.fromiter(places, np.uint64, len(places))
    counts["documents"] = [documents[key] for key in places]
    counts["places"] = list(places.values())
    counts["chunk"] = job[0]
    return counts, lowest


def _spread(parts: Path, results: Iterable[tuple[Job, Any]], partitions: int) -> list[int]:
    """Append counts to the partition files their hashes belong to; returns the lowest limit of each rule."""
    lowest = [_NEVER, _NEVER]
    with ExitStack() as stack:
        files = [stack.enter_context(open(parts / f"{number:04d}", "wb")) for number in range(partitions)]
        for _, (counts, own) in results:
            lowest = [min(pair) for pair in zip(lowest, own, strict=True)]
            ordered = counts[np.argsort(counts["hash"])]
            ends = np.searchsorted(_partition(ordered["hash"], partitions), np.arange(partitions), side="right")
            for file, piece in zip(files, np.split(ordered, ends[:-1]), strict=True):
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
    keys, table = (_array(work.folder / name, kind) for name, kind in (("repeated.hash", np.uint64), ("repeated", _REPEATED)))
    met, made = Counter[int](), Counter[str]()
    found: list[tuple[int, int, int, int]] = []
    gone: list[tuple[int, float]] = []
    for row, length, own, limits in _documents(work, job):
        taken = removed = 0
        for unit, entry in _looked_up(own, keys, table):
            met[unit.hash] += 1
            goes = _goes(entry, job[0], met[unit.hash]) and entry["documents"] > limits[unit.rule]
            if goes and unit.start >= taken:  # a line of a paragraph that goes is gone with it
                found.append((row, unit.start, unit.end, unit.hash & 1))
                made[unit.rule] += 1
                taken = unit.end
                removed += unit.end - unit.start
        if removed:
            gone.append((row, removed / length))
    with atomic_write(_file(work.folder, job[0])) as file:
        np.savez(file, edits=np.array(found, np.int64).reshape(-1, 4), gone=np.array(gone, np.float64).reshape(-1, 2))
    return made


def _looked_up(own: Sequence[Unit], keys: Any, table: Any) -> Iterator[tuple[Unit, Any]]:
    """Those of a document that the corpus repeats, with what is known of them."""
    hashes = np.array([unit.hash for unit in own], np.uint64)
    places = np.searchsorted(keys, hashes)
    inside = np.flatnonzero(places < len(keys))
    for number in inside[keys[places[inside]] == hashes[inside]].tolist():
        yield own[number], table[places[number]]


def _goes(entry: Any, chunk: int, occurrence: int) -> bool:
    """Whether this occurrence (from 1) in a chunk comes after the last that stays."""
    return bool(chunk > entry["chunk"] or (chunk == entry["chunk"] and occurrence > entry["left"]))


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
