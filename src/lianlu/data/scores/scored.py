"""Documents and their scores on disk, chunk by chunk: made once, decided about many times.

    scored/00012.documents.parquet  the documents, their texts normalised and otherwise as they were read
    scored/00012.signals.parquet    in the same order: script, size, a column for each rule, edits
    scored/00012.npz                in the same order: end of its shingles, hash of its text, band keys
    scored/00012.shingles.npy       the shingles, one after another
    scored/00012.json               counts, what could not be read, fingerprint of the input; written last

Chunks are cut by size and count alone, so that they do not depend on the number of workers; a stage that was killed finds
its finished chunks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.core.files import atomic_write
from lianlu.core.pool import in_order
from lianlu.core.store import LOGS
from lianlu.data.dedup.near_dedup import NUM_BANDS, Hashes
from lianlu.data.read.html_extractor import HtmlExtractor, Name
from lianlu.data.read.sources import Raw
from lianlu.data.rules.edits import Edit
from lianlu.data.scores import cost
from lianlu.data.scores.ledger import Ledger
from lianlu.data.scores.score import READ_STEPS, Scored, Settings, score
from lianlu.formats.documents import Document, read_parquet, write_parquet

CHUNK_BYTES = 1 << 20
CHUNK_RAWS = 1000
SCORED, SETTINGS = "scored", "settings.json"
DOCUMENTS = ".documents.parquet"
EDIT = {"start": "int64", "end": "int64", "text": "string", "kind": "string", "rule": "string"}


def chunked(raws: Iterable[Raw]) -> Iterator[list[Raw]]:
    """Runs of about a mebibyte, or of a thousand pieces."""
    chunk: list[Raw] = []
    size = 0
    for raw in raws:
        chunk.append(raw)
        size += raw.num_bytes
        if size >= CHUNK_BYTES or len(chunk) >= CHUNK_RAWS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class Chunk:
    """A finished chunk on disk; its columns are read when they are asked for."""

    def __init__(self, folder: Path, number: int) -> None:
        self._base = folder / f"{number:05d}"
        self.summary: dict[str, Any] = json.loads(self._file(".json").read_text(encoding="utf-8"))
        with np.load(self._file(".npz"), allow_pickle=False) as arrays:
            self.ends: npt.NDArray[np.int64] = arrays["ends"]
            self.num_bytes: npt.NDArray[np.int64] = arrays["num_bytes"]
            self.exact: npt.NDArray[np.uint8] = arrays["exact"]
            self.bands: Hashes = arrays["bands"]
        self._shingles: Hashes | None = None

    def __len__(self) -> int:
        return len(self.ends)

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
        return [[Edit(**edit) for edit in row] for row in self._table("edits")["edits"].to_pylist()]

    def shingles(self, index: int) -> Hashes:
        """The shingles of one document, from a memory map."""
        if self._shingles is None:
            self._shingles = np.load(self._file(".shingles.npy"), mmap_mode="r" if self.ends[-1] else None, allow_pickle=False)
        assert self._shingles is not None
        return self._shingles[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]

    def _table(self, *columns: str) -> Any:
        import pyarrow.parquet as pq

        return pq.read_table(self._file(".signals.parquet"), columns=list(columns) or None)

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
        "edits": pa.array(
            [[asdict(edit) for edit in row.edits] for row in rows],
            pa.list_(pa.struct([(name, pa.type_for_alias(kind)) for name, kind in EDIT.items()])),
        ),
    }
    with atomic_write(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


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


def run_all(folder: Path, chunks: Iterable[list[Raw]], settings: Settings, workers: int) -> Iterator[tuple[int, list[Raw]]]:
    """Work through all chunks with so many processes; yields (number, raws) of each as it is done, in order.

    A few chunks per worker are held in memory. Raises: DataError if a worker dies.
    """
    work, jobs = partial(_run_missing, folder, settings), enumerate(chunks)
    if workers == 1:
        for job in jobs:
            work(job)
            yield job
        return
    for job, _ in in_order(work, jobs, workers, _doing):
        yield job


def _run_missing(folder: Path, settings: Settings, job: tuple[int, list[Raw]]) -> None:
    number, raws = job
    if not is_done(folder, number, raws):
        run_chunk(folder, number, raws, settings)


def _doing(job: tuple[int, list[Raw]]) -> str:
    _, raws = job
    return f"read {raws[0].path or raws[0].id}"
