"""The kept documents of an earlier corpus on disk, so that a later one drops what repeats them.

    index/exact.npy       hashes of the texts, sorted; two halves of 64 bits
    index/exact_rows.npy  the documents they belong to
    index/bands.npy       the keys of each band, sorted
    index/band_rows.npy   the documents they belong to; under one key the longest first
    index/shingles.npy    the shingles of all documents, one after another; shingle_ends.npy
    index/ids.npy         their ids in UTF-8, one after another; id_ends.npy
    index/index.json      counts and what made the hashes; written last

All arrays are memory maps: an index costs no memory but the pages that a look-up touches, and making one takes less than
64 bytes a document. Documents of an index are as good as kept before a new corpus begins, whatever their length.

With A cleaned first, B cleaned with the index of A loses exactly those documents that it loses in A and B cleaned together, as
long as no document of A is shorter than one of B and A comes first, no key is shared by more than `MAX_KEPT` documents, and
no document shares keys with more than `MAX_COMPARED`. Where a document of B is the longer one, cleaning together drops that
of A; here it is that of B, since A is written. Every removal by near duplication is verified, as in `near_dedup`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.errors import DataError
from lianlu.core.files import disk_errors, reserve, write_json
from lianlu.data.dedup.duplicates import REPEAT, STEPS, Repeats
from lianlu.data.dedup.near_dedup import (
    MAX_COMPARED,
    MAX_KEPT,
    NUM_BANDS,
    Longs,
    bands,
    jaccard,
    shingles,
)
from lianlu.data.rules.characters import Hashes, token_hashes
from lianlu.data.scores.columns import decision_columns, num_chunks
from lianlu.data.scores.corpus import Corpus, Mask
from lianlu.data.scores.scored import Chunk

INDEX = "index"
FORMAT = 1
_SUMMARY = "index.json"
_ARRAYS = ("exact", "exact_rows", "bands", "band_rows", "shingles", "shingle_ends", "ids", "id_ends")
Rows = npt.NDArray[np.uint32]


def _fingerprint() -> str:
    """Changes when the hashes of texts do."""
    return f"{int(bands(shingles(token_hashes('the words of a text, 和汉字')))[-1]):016x}"


class DedupIndex:
    """An index on disk. Raises: DataError if it is not there, not whole, or made by other hash functions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        summary = _summary(folder)
        self._length = int(summary["documents"])
        arrays = {name: _mapped(folder / f"{name}.npy") for name in _ARRAYS}
        self._exact, self._exact_rows = arrays["exact"], arrays["exact_rows"]
        self._bands, self._band_rows = arrays["bands"], arrays["band_rows"]
        self._shingles, self._shingle_ends = arrays["shingles"], arrays["shingle_ends"]
        self._ids, self._id_ends = arrays["ids"], arrays["id_ends"]

    def __len__(self) -> int:
        return self._length

    def id(self, row: int) -> str:
        """The id of a document, as it was read."""
        return bytes(_slice(self._ids, self._id_ends, row)).decode()

    def shingles(self, row: int) -> Hashes:
        """The shingles of a document."""
        own: Hashes = _slice(self._shingles, self._shingle_ends, row)
        return own

    def equal(self, exact: npt.NDArray[np.uint8]) -> Longs:
        """For each hash (16 bytes a row) the first document of the index that has it, or -1."""
        first, second = _halves(exact)
        found = np.full(len(exact), -1, dtype=np.int64)
        starts = np.searchsorted(self._exact[0], first, side="left")
        ends = np.searchsorted(self._exact[0], first, side="right")
        for place in np.flatnonzero(ends > starts):
            same = np.flatnonzero(self._exact[1, starts[place] : ends[place]] == second[place])
            if len(same):
                found[place] = self._exact_rows[starts[place] + same[0]]
        return found

    def candidates(self, keys: Hashes) -> Iterator[tuple[int, list[int]]]:
        """(row of `keys`, documents of the index that share a band with it), those that share most first, `MAX_COMPARED` at most.

        `keys` has a row of band keys for each new document.
        """
        shared: dict[int, Counter[int]] = {}
        for number in range(NUM_BANDS):
            own, rows = self._bands[number], self._band_rows[number]
            starts = np.searchsorted(own, keys[:, number], side="left")
            ends = np.searchsorted(own, keys[:, number], side="right")
            for place in np.flatnonzero(ends > starts).tolist():
                members = rows[starts[place] : min(ends[place], starts[place] + MAX_KEPT)].tolist()
                shared.setdefault(place, Counter()).update(members)
        for place in sorted(shared):
            yield place, [row for row, _ in shared[place].most_common(MAX_COMPARED)]


def repeated(indexes: Sequence[DedupIndex], corpus: Corpus, left: Mask, min_jaccard: float | None) -> Repeats:
    """What each of the documents that are left repeats of earlier corpora, the first of the indexes first; exact before near.

    `min_jaccard` in 0..1; None: only equal texts count.
    """
    found = [np.empty(0, REPEAT)]
    for chunk, start, rows in corpus.rows(left) if indexes else ():
        own: dict[int, tuple[int, int, float, int, int]] = {}
        for number, index in enumerate(indexes, 1):
            others = np.array([row for row in rows.tolist() if row not in own], np.int64)
            for row, kept, similarity, step in _repeated(index, chunk, others, min_jaccard):
                own[row] = (start + row, kept, similarity, STEPS.index(step), number)
        found.append(np.array([own[row] for row in sorted(own)], REPEAT))
    return np.concatenate(found)


def _repeated(
    index: DedupIndex, chunk: Chunk, rows: npt.NDArray[np.int64], min_jaccard: float | None
) -> Iterator[tuple[int, int, float, str]]:
    """Row, row in the index, similarity and step of each that repeats a document of the index."""
    equal = index.equal(chunk.exact[rows])
    for place in np.flatnonzero(equal >= 0).tolist():
        yield int(rows[place]), int(equal[place]), 1.0, "exact_dedup"
    if min_jaccard is None:
        return
    rows = rows[(equal < 0) & (np.diff(chunk.ends, prepend=0)[rows] > 0)]
    sets = chunk.sets()
    for place, candidates in index.candidates(chunk.bands[rows]):
        own = sets(int(rows[place]))
        for candidate in candidates:
            similarity = jaccard(own, index.shingles(candidate))
            if similarity >= min_jaccard:
                yield int(rows[place]), candidate, similarity, "near_dedup"
                break


def write_index(folder: Path, scored: Path, artifact: Path) -> int:
    """Write the index of the documents that `artifact` kept of those in `scored`; returns how many there are.

    Equal input gives equal bytes. Raises: DataError if scores or decisions are damaged, ArtifactError if the disk is full.
    """
    kept = [_kept(artifact, number) for number in range(num_chunks(scored))]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SUMMARY).unlink(missing_ok=True)
        _write_ids(folder, artifact, kept)
        lengths, sizes = _write_exact(folder, scored, kept)
        ends = np.cumsum(sizes, dtype=np.int64)
        np.save(folder / "shingle_ends.npy", ends)
        _write_shingles(folder, scored, kept, int(ends[-1]) if len(ends) else 0)
        del ends
        order = np.argsort(-lengths, kind="stable")
        del lengths
        ranks = np.empty(len(order), dtype=np.uint32)
        ranks[order] = np.arange(len(order), dtype=np.uint32)
        del order
        _write_bands(folder, scored, kept, ranks, sizes > 0)
    write_json(folder / _SUMMARY, {"format": FORMAT, "documents": len(sizes), "fingerprint": _fingerprint()})
    return len(sizes)


def _kept(artifact: Path, number: int) -> Rows:
    rules = decision_columns(artifact, number, "rule")[0]
    return np.array([row for row, rule in enumerate(rules) if not rule], dtype=np.uint32)


def _write_ids(folder: Path, artifact: Path, kept: Sequence[Rows]) -> None:
    sizes = [np.empty(0, np.int64)]
    with open(folder / "ids.bin", "wb") as file:
        for number, rows in enumerate(kept):
            names = decision_columns(artifact, number, "id")[0]
            own = [names[row].encode("utf-8", "replace") for row in rows.tolist()]
            file.writelines(own)
            sizes.append(np.fromiter(map(len, own), np.int64, len(own)))
    ends = np.cumsum(np.concatenate(sizes))
    np.save(folder / "id_ends.npy", ends)
    _as_array(folder / "ids.bin", folder / "ids.npy", np.uint8)


def _write_exact(folder: Path, scored: Path, kept: Sequence[Rows]) -> tuple[Longs, npt.NDArray[np.uint32]]:
    """The sorted hashes; returns the size in bytes and the number of shingles of every kept document."""
    count = sum(map(len, kept))
    exact = _created(folder / "exact.npy", np.uint64, (2, count))
    lengths, sizes = np.empty(count, np.int64), np.empty(count, np.uint32)
    start = 0
    for number, rows in enumerate(kept):
        chunk, end = Chunk(scored, number), start + len(rows)
        exact[0, start:end], exact[1, start:end] = _halves(chunk.exact[rows])
        lengths[start:end] = chunk.num_bytes[rows]
        sizes[start:end] = np.diff(chunk.ends, prepend=0)[rows]
        start = end
    order = np.lexsort((exact[1], exact[0]))
    for half in exact:
        half[:] = half[order]
    np.save(folder / "exact_rows.npy", order.astype(np.uint32))
    return lengths, sizes


def _write_shingles(folder: Path, scored: Path, kept: Sequence[Rows], total: int) -> None:
    shingles = _created(folder / "shingles.npy", np.uint64, (total,))
    start = 0
    for number, rows in enumerate(kept):
        sets = Chunk(scored, number).sets()
        for row in rows.tolist():
            own = sets(row)
            shingles[start : start + len(own)] = own
            start += len(own)


def _write_bands(
    folder: Path, scored: Path, kept: Sequence[Rows], ranks: npt.NDArray[np.uint32], has_words: npt.NDArray[np.bool_]
) -> None:
    """Keys and documents, band by band; a document without words has no key that means anything and is left out."""
    rows = np.flatnonzero(has_words).astype(np.uint32)
    keys = _created(folder / "bands.npy", np.uint64, (NUM_BANDS, len(rows)))
    start = before = 0
    for number, own in enumerate(kept):
        chosen = own[has_words[before : before + len(own)]]
        keys[:, start : start + len(chosen)] = Chunk(scored, number).bands[chosen].T
        start, before = start + len(chosen), before + len(own)
    members = _created(folder / "band_rows.npy", np.uint32, (NUM_BANDS, len(rows)))
    ranks = ranks[rows]
    for number in range(NUM_BANDS):
        order = np.lexsort((ranks, keys[number]))
        keys[number] = keys[number][order]
        members[number] = rows[order]


def _halves(exact: npt.NDArray[np.uint8]) -> tuple[Hashes, Hashes]:
    """Hashes of 16 bytes as two numbers each."""
    pairs = np.ascontiguousarray(exact).view("<u8").reshape(len(exact), 2)
    return pairs[:, 0], pairs[:, 1]


def _created(path: Path, kind: Any, shape: tuple[int, ...]) -> Any:
    """A new array on disk, its space taken beforehand: writing to a map kills the process where the disk is full."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    reserve(path, path.stat().st_size)
    return made


def _as_array(raw: Path, path: Path, kind: Any) -> None:
    """Bytes written one after another become an array on disk, a mebibyte at a time."""
    made = _created(path, kind, (raw.stat().st_size,))
    start = 0
    with open(raw, "rb") as file:
        while block := file.read(1 << 20):
            made[start : start + len(block)] = np.frombuffer(block, kind)
            start += len(block)
    raw.unlink()


def _summary(folder: Path) -> dict[str, Any]:
    hint = "name an artifact of the clean stage that has an index, or clean that corpus again"
    try:
        summary: dict[str, Any] = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        version, fingerprint = summary["format"], summary["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no whole index of documents", hint=hint) from error
    if version != FORMAT or fingerprint != _fingerprint():
        raise DataError(f"the index in {folder} was made by another version of lianlu", hint="clean that corpus again")
    return summary


def _mapped(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="clean that corpus again") from error


def _slice(values: Any, ends: Any, row: int) -> Any:
    return values[int(ends[row - 1]) if row else 0 : int(ends[row])]
