"""Chunks of a source, each worked through by one process and kept on disk until the stage is done.

    .resume/00012.parquet         the survivors
    .resume/00012.shingles.npy    their shingles, one after another
    .resume/00012.npz             per survivor: end of its shingles, bytes, hash of its text, band keys
    .resume/00012.json            counts, rejections, fingerprint of the input; written last: without it there is no chunk

Chunks are cut by size and count alone, so that they do not depend on the number of workers; a stage that was killed finds
its finished chunks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.core.files import atomic_write
from lianlu.core.pool import in_order
from lianlu.data.html_extractor import HtmlExtractor
from lianlu.data.ledger import Ledger
from lianlu.data.near_dedup import NUM_BANDS, Hashes
from lianlu.data.pipeline import STEPS, Settings, Survivor, process
from lianlu.data.sources import Raw
from lianlu.formats.documents import Document, read_parquet, write_parquet

CHUNK_BYTES = 1 << 20
CHUNK_RAWS = 1000


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
    """A finished chunk on disk."""

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
        """The survivors, in order."""
        return read_parquet(self._file(".parquet"))

    def shingles(self, index: int) -> Hashes:
        """The shingles of one survivor, from a memory map."""
        if self._shingles is None:
            self._shingles = np.load(self._file(".shingles.npy"), mmap_mode="r" if self.ends[-1] else None, allow_pickle=False)
        assert self._shingles is not None
        return self._shingles[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]

    def _file(self, suffix: str) -> Path:
        return self._base.with_name(self._base.name + suffix)


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
    """Work through one chunk and keep the outcome."""
    ledger = Ledger(STEPS)
    survivors = [survivor for raw in raws for survivor in process(raw, settings, _pages(settings.html_limit_s), ledger)]
    base = folder / f"{number:05d}"
    write_parquet(base.with_name(base.name + ".parquet"), [survivor.document for survivor in survivors])
    _write_arrays(base, survivors)
    summary = {"fingerprint": _fingerprint(raws), "counts": ledger.counts(), "rejected": ledger.rejected}
    with atomic_write(base.with_name(base.name + ".json"), "w") as file:
        json.dump(summary, file, ensure_ascii=False)


def _write_arrays(base: Path, survivors: list[Survivor]) -> None:
    count = len(survivors)
    bands = np.zeros((count, NUM_BANDS), dtype=np.uint64)
    for row, survivor in zip(bands, survivors, strict=True):
        if len(survivor.bands):
            row[:] = survivor.bands
    with atomic_write(base.with_name(base.name + ".shingles.npy")) as file:
        np.save(
            file, np.concatenate([np.empty(0, np.uint64), *(survivor.shingles for survivor in survivors)]), allow_pickle=False
        )
    with atomic_write(base.with_name(base.name + ".npz")) as file:
        np.savez(
            file,
            ends=np.cumsum([len(survivor.shingles) for survivor in survivors], dtype=np.int64),
            num_bytes=np.array([survivor.num_bytes for survivor in survivors], dtype=np.int64),
            exact=np.frombuffer(b"".join(survivor.exact for survivor in survivors), dtype=np.uint8).reshape(count, 16),
            bands=bands,
        )


@cache
def _pages(limit_s: float) -> HtmlExtractor:
    """The HTML extractor of this process; it ends with the process."""
    return HtmlExtractor(limit_s)


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
