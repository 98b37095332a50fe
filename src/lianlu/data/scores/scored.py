"""Documents and their scores on disk, chunk by chunk: made once, decided about many times.

    scored/00012.documents.parquet  the documents, their texts normalised and otherwise as they were read
    scored/00012.signals.parquet    in the same order: script, size, a column for each rule, edits
    scored/00012.npz                in the same order: end of its shingles, hash of its text, band keys
    scored/00012.shingles.npy       the shingles, one after another
    scored/00012.json               counts, what could not be read, fingerprint of the input; written last

Chunks are cut by size and count alone, larger ones where the source is large, so that they do not depend on the number of
workers; a stage that was killed finds its finished chunks again. A piece of the source that ends the process which reads it,
or hangs, is found by trying the pieces of its chunk one by one, and rejected (`read.crashed`, `read.max_seconds`).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.core.files import atomic_write
from lianlu.core.pool import Engine, Lost, in_order
from lianlu.core.store import LOGS
from lianlu.data.dedup.near_dedup import NUM_BANDS
from lianlu.data.read.html_extractor import HtmlExtractor, Name
from lianlu.data.read.sources import Listing, Raw
from lianlu.data.rules.characters import Hashes
from lianlu.data.rules.edits import Edit
from lianlu.data.rules.thresholds import Verdict
from lianlu.data.scores import cost
from lianlu.data.scores.ledger import Ledger
from lianlu.data.scores.score import READ_STEPS, Scored, Settings, score
from lianlu.formats.documents import Document, read_parquet, write_parquet

CHUNK_BYTES = 1 << 20
CHUNK_RAWS = 1000
NUM_CHUNKS = 256
"""Chunks are made larger, up to `MAX_SCALE` times, where there would be more of them."""
MAX_SCALE = 8
SCORED, SETTINGS = "scored", "settings.json"
DOCUMENTS = ".documents.parquet"
EDIT = {"start": "int64", "end": "int64", "text": "string", "kind": "string", "rule": "string"}


def scale_of(listing: Listing) -> int:
    """How many times larger than usual chunks are to be, so that a large source does not make millions of files."""
    wanted = max(listing.num_bytes / CHUNK_BYTES, listing.num_files / CHUNK_RAWS) / NUM_CHUNKS
    return min(1 << max(math.ceil(wanted) - 1, 0).bit_length(), MAX_SCALE)


def chunked(raws: Iterable[Raw], scale: int = 1) -> Iterator[list[Raw]]:
    """Runs of about a mebibyte, or of a thousand pieces, or so many times that."""
    chunk: list[Raw] = []
    size = 0
    for raw in raws:
        chunk.append(raw)
        size += raw.num_bytes
        if size >= scale * CHUNK_BYTES or len(chunk) >= scale * CHUNK_RAWS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class Chunk:
    """A finished chunk on disk; every column is read when it is asked for, and not kept."""

    def __init__(self, folder: Path, number: int) -> None:
        self._base = folder / f"{number:05d}"

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        return len(self.ends)

    @property
    def summary(self) -> dict[str, Any]:
        """Counts, and what could not be read."""
        summary: dict[str, Any] = json.loads(self._file(".json").read_text(encoding="utf-8"))
        return summary

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where the shingles of each document end."""
        column: npt.NDArray[np.int64] = self._array("ends")
        return column

    @property
    def num_bytes(self) -> npt.NDArray[np.int64]:
        """The size of each text without the lines taken out."""
        column: npt.NDArray[np.int64] = self._array("num_bytes")
        return column

    @property
    def exact(self) -> npt.NDArray[np.uint8]:
        """The hash of each text, 16 bytes a row."""
        column: npt.NDArray[np.uint8] = self._array("exact")
        return column

    @property
    def bands(self) -> Hashes:
        """The band keys of each document, a row each."""
        column: Hashes = self._array("bands")
        return column

    def documents(self) -> Iterator[Document]:
        """The documents, in order."""
        return read_parquet(self._file(DOCUMENTS))

    def signals(self) -> dict[str, npt.NDArray[np.float64]]:
        """The value of each rule for every document; NaN where the rule does not apply."""
        table = self._table()
        return {name: table[name].to_numpy() for name in table.column_names if "." in name}

    def kinds(self) -> list[tuple[str, str, str]]:
        """Domain, script and language of every document."""
        table = self._table("domain", "script", "lang")
        return list(zip(*(table[name].to_pylist() for name in ("domain", "script", "lang")), strict=True))

    def ids(self) -> list[str]:
        """The ids of the documents, as they were read."""
        names: list[str] = self._table("id")["id"].to_pylist()
        return names

    def rows_of(self, name: str) -> list[int]:
        """The rows of the documents with this id."""
        return [row for row, found in enumerate(self.ids()) if found == name]

    def edits(self) -> list[list[Edit]]:
        """What is to be changed in every document when it is written."""
        column = self._table("edits")["edits"].combine_chunks()
        flat = [Edit(*values) for values in zip(*(column.values.field(name).to_pylist() for name in EDIT), strict=True)]
        return [flat[start:end] for start, end in itertools.pairwise(column.offsets.to_pylist())]

    def shingles(self, row: int) -> Hashes:
        """Those of one document; `sets` is for many."""
        return self.sets()(row)

    def sets(self) -> Callable[[int], Hashes]:
        """What gives the shingles of a document by its row, from a memory map."""
        ends = self.ends
        # an empty file cannot be mapped
        whole = np.load(self._file(".shingles.npy"), mmap_mode="r" if len(ends) and ends[-1] else None, allow_pickle=False)
        return lambda row: whole[int(ends[row - 1]) if row else 0 : int(ends[row])]

    def _array(self, name: str) -> Any:
        with np.load(self._file(".npz"), allow_pickle=False) as arrays:
            return arrays[name]

    def _table(self, *columns: str) -> Any:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._file(".signals.parquet")) as file:
            return file.read(columns=list(columns) or None, use_threads=False)  # small files: threads cost more than they save

    def _file(self, suffix: str) -> Path:
        return self._base.with_name(self._base.name + suffix)


def chunks_in(folder: Path) -> list[Chunk]:
    """The chunks of a finished run."""
    return [Chunk(folder, number) for number in range(len(list(folder.glob(f"*{DOCUMENTS}"))))]


def is_done(folder: Path, number: int, raws: list[Raw]) -> bool:
    """Whether a finished chunk with this input is there."""
    try:
        summary = json.loads((folder / f"{number:05d}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(summary["fingerprint"] == _fingerprint(raws))


def _fingerprint(raws: list[Raw]) -> str:
    digest = xxhash.xxh3_64()
    for raw in raws:
        digest.update(f"{raw.id}\0{raw.num_bytes}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def run_chunk(folder: Path, number: int, raws: list[Raw], settings: Settings) -> None:
    """Score one chunk and keep the outcome."""
    ledger = Ledger(READ_STEPS)
    rows = [row for raw in raws for row in score(raw, settings, _pages(settings.html_limit_s, settings.extractor), ledger)]
    base = folder / f"{number:05d}"
    write_parquet(base.with_name(base.name + DOCUMENTS), [row.document for row in rows])
    _write_signals(base.with_name(base.name + ".signals.parquet"), rows)
    _write_arrays(base, rows)
    summary = {"fingerprint": _fingerprint(raws), "counts": ledger.counts(), "rejected": ledger.rejected}
    with atomic_write(base.with_name(base.name + ".json"), "w") as file:
        json.dump(summary, file, ensure_ascii=False)
    cost.write_chunk(folder.parent / LOGS, number)


def _write_signals(path: Path, rows: Sequence[Scored]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in rows for name in row.signals)
    columns: dict[str, Any] = {
        "id": pa.array([row.document.id for row in rows], pa.large_string()),
        "domain": pa.array([row.document.domain for row in rows], pa.string()),
        "script": pa.array([row.script for row in rows], pa.string()),
        "lang": pa.array([row.document.lang for row in rows], pa.string()),
        **{name: pa.array([row.signals.get(name, np.nan) for row in rows], pa.float64()) for name in names},
        "edits": _edits([row.edits for row in rows]),
    }
    with atomic_write(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


def _edits(found: Sequence[Sequence[Edit]]) -> Any:
    """The edits of each document as a column of lists."""
    import pyarrow as pa

    flat = [edit for own in found for edit in own]
    columns = [pa.array([getattr(edit, name) for edit in flat], pa.type_for_alias(kind)) for name, kind in EDIT.items()]
    ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(columns, names=list(EDIT)))


def _write_arrays(base: Path, rows: Sequence[Scored]) -> None:
    count = len(rows)
    bands = np.zeros((count, NUM_BANDS), dtype=np.uint64)
    for place, row in zip(bands, rows, strict=True):
        if len(row.bands):
            place[:] = row.bands
    with atomic_write(base.with_name(base.name + ".shingles.npy")) as file:
        np.save(file, np.concatenate([np.empty(0, np.uint64), *(row.shingles for row in rows)]), allow_pickle=False)
    with atomic_write(base.with_name(base.name + ".npz")) as file:
        np.savez(
            file,
            ends=np.cumsum([len(row.shingles) for row in rows], dtype=np.int64),
            num_bytes=np.array([row.num_bytes for row in rows], dtype=np.int64),
            exact=np.frombuffer(b"".join(row.exact for row in rows), dtype=np.uint8).reshape(count, 16),
            bands=bands,
        )


@cache
def _pages(limit_s: float, name: Name) -> HtmlExtractor:
    """The HTML extractor of this process; it ends with the process."""
    return HtmlExtractor(limit_s, name)


def run_all(
    folder: Path, chunks: Iterable[list[Raw]], settings: Settings, engine: Engine, limit_s: float | None = None
) -> Iterator[tuple[int, list[Raw]]]:
    """Work through all chunks; yields (number, raws) of each as it is done, in order.

    A few chunks per worker are held in memory. A piece that takes its worker down with it, or takes longer than `limit_s`,
    is rejected. Raises: DataError if a chunk is lost though none of its pieces is to blame.
    """
    work = partial(_run_missing, folder, settings)
    with closing(engine.results(work, enumerate(chunks), limit_s)) as results:
        for job, outcome in results:
            if isinstance(outcome, Lost):
                _run_without_killers(folder, job, settings, engine.alone(), limit_s)
            yield job


def _run_without_killers(
    folder: Path, job: tuple[int, list[Raw]], settings: Settings, engine: Engine, limit_s: float | None
) -> None:
    """Try the pieces of a chunk one by one; then do the chunk with those rejected that were lost."""
    number, raws = job
    tried = engine.results(partial(_try, settings), raws, limit_s)
    left = [_killer(raw, outcome, limit_s) if isinstance(outcome, Lost) else raw for raw, outcome in tried]
    for _ in in_order(partial(_run_missing, folder, settings), [(number, left)], engine, _doing):
        pass


def _try(settings: Settings, raw: Raw) -> None:
    for _ in score(raw, settings, _pages(settings.html_limit_s, settings.extractor), Ledger(READ_STEPS)):
        pass
    cost.taken()


def _killer(raw: Raw, lost: Lost, limit_s: float | None) -> Raw:
    """A piece with the verdict that it takes its reader down."""
    verdict = Verdict("read.crashed", "the process died", "a process that lives on")
    if lost.reason == "took too long" and limit_s is not None:
        verdict = Verdict("read.max_seconds", "over", limit_s)
    return replace(raw, content=None, verdict=verdict)


def _run_missing(folder: Path, settings: Settings, job: tuple[int, list[Raw]]) -> None:
    number, raws = job
    if not is_done(folder, number, raws):
        run_chunk(folder, number, raws, settings)


def _doing(job: tuple[int, list[Raw]]) -> str:
    _, raws = job
    return f"read {raws[0].path or raws[0].id}, or what follows"
