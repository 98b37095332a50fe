"""The repositories stage: files of code that were kept, joined again to Markdown documents, each file after those it imports.

    documents (clean) -> files of each repository -> order of their imports (`code.repository`) -> part-NNNNN.parquet

A repository is what has one name (meta.repo, which the readers of folders, archives and git set) below one folder. It becomes
one document, or several where it is long. Documents that name no repository, and a second file of one path, go on as they are,
after the repositories. Texts are held for about `BATCH_BYTES` of whole repositories at a time; files of documents are read again
for each batch that has rows in them. What was forgotten in the store (`data forget`) is left out. A killed stage starts again
from the beginning. Source: InternLM2 (arXiv 2403.17297, section 3.1.2).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Config, Documents
from lianlu.core.pool import in_order
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.code.repository import MAX_BYTES, REPOSITORY, concatenated
from lianlu.data.code.source_file import path_of
from lianlu.data.forgotten import Forgotten, forgotten_at
from lianlu.data.scores.unique import COPY, Hashes, id_hashes, unique
from lianlu.formats.documents import COLUMNS, Document, document_files, read_documents, write_documents

BATCH_BYTES = 256_000_000
SERIAL_BYTES = 2_000_000
_NONE, _FORGOTTEN = -1, -2
"""In place of the number of a repository."""
_BYTES_PER_CORE_S, _PACKED = 3e6, 4
Key = tuple[str, str]
"""Name of a repository, and what stands before the path of a file in its id."""
Numbers = npt.NDArray[np.int64]
Job = tuple[str, list[Document]]


class RepositoriesConfig(Config):
    """Which documents are joined, and how long the joined ones may be."""

    data: Documents | tuple[Documents, ...]
    """Documents, as the clean stage makes them: one folder, or several."""
    by: str = REPOSITORY
    """The field, or the key of meta, that names the repository: of sets of records often repo_name, or source."""
    max_bytes: int = Field(MAX_BYTES, gt=0)
    """A document does not grow beyond this; a longer file stands alone."""
    workers: int = Field(0, ge=0)
    """Processes; 0: one for each core this process may use. The output does not depend on it."""


@dataclass(frozen=True)
class _Survey:
    """The repositories in order with the bytes of their texts, and for each file of documents the repository of each row.

    `hashes` are those of the ids of all documents.
    """

    keys: list[Key]
    num_bytes: list[int]
    rows: list[Numbers]
    hashes: Hashes

    def names(self) -> list[str]:
        """What each repository is called: as it says, or by its folder where others say the same."""
        known = Counter(name for name, _ in self.keys)
        return [name if known[name] == 1 else root.strip("/") or name for name, root in self.keys]

    def ids_made(self) -> Iterator[str]:
        """What the joined documents may be called at most: each has a file or more."""
        rows = np.concatenate([np.empty(0, np.int64), *self.rows])
        for name, count in zip(self.names(), np.bincount(rows[rows >= 0], minlength=len(self.keys)).tolist(), strict=True):
            yield name
            yield from (f"{name}#{number}" for number in range(1, count + 1))

    def batches(self) -> Iterator[range]:
        """Runs of repositories that are held at a time."""
        start = size = 0
        for number, own in enumerate(self.num_bytes):
            if number > start and size + own > BATCH_BYTES:
                yield range(start, number)
                start, size = number, 0
            size += own
        if start < len(self.keys):
            yield range(start, len(self.keys))


def estimate(config: RepositoriesConfig) -> Estimate:
    """Seconds and memory from the size of the documents; 12 MB of text are assumed where they do not exist yet."""
    there = [path for path in _folders(config) if path.exists()]
    size = _PACKED * sum(file.stat().st_size for path in there for file in document_files(path)) or 12_000_000
    seconds = size / _BYTES_PER_CORE_S / _num_workers(config, size) + 3
    memory = 300_000_000 + 6 * min(size, BATCH_BYTES)
    return Estimate(seconds, memory, f"{size / 1e6:.0f} MB of text at 3 MB/s a core")


def run(config: RepositoriesConfig, out: Output) -> None:
    """Join the files of each repository. Raises: DataError if there are no documents."""
    files = [file for path in _folders(config) for file in document_files(path)]
    forgotten = forgotten_at(out.path)
    survey = _survey(files, config.by, forgotten)
    totals = Counter[str]()
    joined = (document for document in _joined(config, files, survey, totals) if forgotten.verdict(document) is None)
    hashes = np.sort(np.concatenate([survey.hashes, id_hashes(survey.ids_made())]))
    out.figures["documents"] = write_documents(out.path, unique(chain(joined, _others(files, survey, totals)), hashes))
    out.figures.update(repositories=len(survey.keys), files_joined=totals["joined"], documents_left_alone=totals["alone"])
    if num_forgotten := sum(int((rows == _FORGOTTEN).sum()) for rows in survey.rows):
        out.figures["documents_forgotten"] = num_forgotten
    if not survey.keys:
        hint = "set `by` to the field that names the repository, for example by=source"
        console.warn(f"no document has a {config.by}: all go on as they are; {hint}")


def _folders(config: RepositoriesConfig) -> list[Path]:
    return [Path(path) for path in ((config.data,) if isinstance(config.data, str) else config.data)]


def _num_workers(config: RepositoriesConfig, num_bytes: int) -> int:
    return 1 if num_bytes < SERIAL_BYTES else config.workers or len(os.sched_getaffinity(0))


def _survey(files: Sequence[Path], by: str, forgotten: Forgotten) -> _Survey:
    """Look at all documents once."""
    found: dict[Key, int] = {}
    sizes: list[int] = []
    rows, hashes = [], [np.empty(0, np.uint64)]
    for file in files:
        own, ids = [], []
        for document in read_documents(file):
            ids.append(document.id)
            if forgotten.verdict(document) is not None:
                own.append(_FORGOTTEN)
                continue
            key = _key(document, by)
            number = found.setdefault(key, len(found)) if key else _NONE
            sizes += [0] if number == len(sizes) else []
            own.append(number)
            if key:
                sizes[number] += len(document.text.encode("utf-8", "replace"))
        rows.append(np.array(own, dtype=np.int64))
        hashes.append(id_hashes(ids))
    order = sorted(found)
    place = np.array([*range(len(order)), _FORGOTTEN, _NONE], dtype=np.int64)  # the last ones are meant by -2 and -1
    place[[found[key] for key in order]] = np.arange(len(order))
    return _Survey(order, [sizes[found[key]] for key in order], [place[own] for own in rows], np.concatenate(hashes))


def _key(document: Document, by: str) -> Key | None:
    """The repository of a document, if it names one."""
    name = getattr(document, by) if by in COLUMNS else document.meta.get(by)
    if not isinstance(name, str) or not name:
        return None
    path = path_of(document)
    own = document.id if document.id.endswith(path) else COPY.sub("", document.id)
    return name, own.removesuffix(path) if own.endswith(path) else ""


def _joined(config: RepositoriesConfig, files: Sequence[Path], survey: _Survey, totals: Counter[str]) -> Iterator[Document]:
    work = partial(_made, config.max_bytes)
    jobs = _jobs(files, survey)
    workers = min(_num_workers(config, sum(survey.num_bytes)), max(len(survey.keys), 1))
    with console.progress("repositories", total=len(survey.keys), unit="repository") as bar:
        for job, made in ((job, work(job)) for job in jobs) if workers == 1 else in_order(work, jobs, workers, _doing):
            num_joined = sum(len(document.meta.get("files", ())) for document in made)
            totals.update(joined=num_joined, alone=len(job[1]) - num_joined)
            bar.advance(1, files=totals["joined"])
            yield from made


def _jobs(files: Sequence[Path], survey: _Survey) -> Iterator[Job]:
    """Every repository with its files."""
    names = survey.names()
    for batch in survey.batches():
        groups: dict[int, list[Document]] = {number: [] for number in batch}
        for file, rows in zip(files, survey.rows, strict=True):
            if np.isin(rows, np.array(batch)).any():
                for number, document in zip(rows.tolist(), read_documents(file), strict=True):
                    if number in groups:
                        groups[number].append(document)
        for number in batch:
            yield names[number], groups.pop(number)


def _doing(job: Job) -> str:
    return f"joined the files of {job[0]}"


def _made(max_bytes: int, job: Job) -> list[Document]:
    """The joined documents of one repository, and what has a path that an earlier file has."""
    name, files = job
    firsts: dict[str, Document] = {}
    again = [file for file in files if firsts.setdefault(path_of(file), file) is not file]
    return [*concatenated(name, list(firsts.values()), max_bytes), *again]


def _others(files: Sequence[Path], survey: _Survey, totals: Counter[str]) -> Iterator[Document]:
    """The documents that name no repository."""
    for file, rows in zip(files, survey.rows, strict=True):
        if (rows == _NONE).any():
            for document in _without_number(rows, read_documents(file)):
                totals["alone"] += 1
                yield document


def _without_number(rows: Numbers, documents: Iterable[Document]) -> Iterator[Document]:
    return (document for number, document in zip(rows.tolist(), documents, strict=True) if number == _NONE)
