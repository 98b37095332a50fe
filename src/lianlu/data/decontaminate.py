"""The decontaminate stage: documents that hold evaluation items go, each with the text that gave it away.

    documents + items (eval-items) -> part-NNNNN.parquet, rejected.jsonl, funnel.json, decisions/contamination.jsonl (every hit)

Files are searched one by one in a pool of processes; the outcome does not depend on their number. An item of every task is
planted in each file: if one is not found, the stage fails, since then finding nothing would mean nothing. Texts are taken as
the clean stage normalises them. Parts of a benchmark scattered over a large document count together.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path

from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Config, Documents
from lianlu.core.errors import DataError
from lianlu.core.files import write_json
from lianlu.core.pool import in_order
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.contamination.ngram_index import NgramIndex, Windows
from lianlu.data.contamination.verdicts import CANARY, Found, canaries, check, judge, verdict
from lianlu.data.scores.ledger import FORMAT, Ledger
from lianlu.formats import jsonl
from lianlu.formats.documents import Document, document_files, read_documents, write_documents

STEP = "decontaminate"
HITS = "decisions/contamination.jsonl"
_BYTES_PER_S, _PACKED, _SERIAL_BYTES = 1e7, 4, 8_000_000


class DecontaminateConfig(Config):
    """Which documents are searched for which items."""

    data: Documents | tuple[Documents, ...]
    """Documents, as the clean stage makes them: one folder, or several."""
    items: Documents
    """Evaluation items, as the eval-items stage makes them."""
    max_overlap: float = Field(0.5, gt=0, le=1)
    """A document goes that has this share of a question or answer, in windows that match."""
    words: int = Field(13, ge=2)
    """Words of a window."""
    chars: int = Field(20, ge=2)
    """CJK characters of a window."""
    min_words: int = Field(6, ge=1)
    """Items below a window are searched as a whole if they have so many words."""
    min_chars: int = Field(10, ge=1)
    """The same in CJK characters."""
    max_items: int = Field(10, ge=1)
    """A window that more items of a task share is a template, and not searched."""
    workers: int = Field(0, ge=0)
    """Processes; 0: one for each core this process may use. The output does not depend on it."""

    @property
    def windows(self) -> Windows:
        """Lengths of what is compared."""
        return Windows(self.words, self.chars, self.min_words, self.min_chars, self.max_items)


def estimate(config: DecontaminateConfig) -> Estimate:
    """Seconds and memory from the size of the documents; 12 MB of text are assumed where they do not exist yet."""
    there = [path for path in _folders(config) if path.exists()]
    size = _PACKED * sum(file.stat().st_size for path in there for file in document_files(path)) or 12_000_000
    workers = _num_workers(config, size)
    return Estimate(size / _BYTES_PER_S / workers + 5, 400_000_000 * workers, f"{size / 1e6:.0f} MB of text at 10 MB/s a core")


def run(config: DecontaminateConfig, out: Output) -> None:
    """Write the documents that hold no items. Raises: DataError if a planted item is not found, or nothing can be searched."""
    files = [file for path in _folders(config) for file in document_files(path)]
    index = _index(config.items, config.windows)
    planted = canaries(read_documents(Path(config.items)), index)
    if not planted:
        raise DataError(f"{config.items} has no item that can be searched", hint=f"items need {config.min_words} words at least")
    search = partial(_search, config.items, config.windows, config.max_overlap)
    found: list[dict[str, list[Found]]] = []
    jobs, workers = (
        [(file, planted) for file in files],
        _num_workers(config, _PACKED * sum(file.stat().st_size for file in files)),
    )
    with console.progress(STEP, total=len(files), unit="file") as bar:
        for _, own in ((job, search(job)) for job in jobs) if workers == 1 else in_order(search, jobs, workers, _doing):
            check(planted, own)
            found.append({name: hits for name, hits in own.items() if not name.startswith(CANARY)})
            bar.advance(1, documents_with_hits=sum(map(len, found)))
    _write(config, files, found, out)
    unsearched = dict(sorted(index.unsearched.items()))
    out.figures.update(items=len(index.parts), planted_and_found=len(planted) * len(files), items_too_short=unsearched)


@cache
def _index(items: str, windows: Windows) -> NgramIndex:
    """The index of this process."""
    return NgramIndex(read_documents(Path(items)), windows)


def _search(items: str, windows: Windows, max_overlap: float, job: tuple[Path, list[Document]]) -> dict[str, list[Found]]:
    """The hits in one file, and in what is planted in it, by the place of the document (a canary by its id)."""
    index = _index(items, windows)
    file, planted = job
    named = chain(((document.id, document) for document in planted), _numbered(file))
    hits = ((name, index.search(document.text)) for name, document in named)
    return {name: judge(own, max_overlap) for name, own in hits if own}


def _numbered(file: Path) -> Iterator[tuple[str, Document]]:
    return ((str(number), document) for number, document in enumerate(read_documents(file)))


def _doing(job: tuple[Path, list[Document]]) -> str:
    return f"searched {job[0]}"


def _write(config: DecontaminateConfig, files: list[Path], found: list[dict[str, list[Found]]], out: Output) -> None:
    ledger = Ledger((STEP,))
    records: list[dict[str, object]] = []

    def kept() -> Iterator[Document]:
        for file, own in zip(files, found, strict=True):
            for number, document in _numbered(file):
                hits = own.get(number, [])
                records.extend(one.record(document.id) for one in hits)
                if _passes(document, hits, config.max_overlap, ledger):
                    yield document

    count = write_documents(out.path, kept())
    jsonl.write_values(out.path / HITS, records)
    jsonl.write_values(out.path / "rejected.jsonl", ledger.rejected)
    write_json(out.path / "funnel.json", {"format": FORMAT, "steps": [{"step": STEP, **ledger.counts()[STEP]}]})
    if not count:
        raise DataError("every document holds evaluation items", hint=f"{out.path / 'contamination.jsonl'} lists what was found")
    tasks = Counter(str(record["task"]) for record in records)
    out.figures.update(documents=count, dropped=len(ledger.rejected), hits=len(records), hits_by_task=dict(sorted(tasks.items())))


def _passes(document: Document, hits: list[Found], max_overlap: float, ledger: Ledger) -> bool:
    size = len(document.text.encode("utf-8", "replace"))
    ledger.enter(STEP, size)
    broken = verdict(hits, max_overlap)
    if broken is None:
        ledger.leave(STEP, size)
        return True
    ledger.drop(STEP, document, broken, hits=[one.record(document.id) for one in hits if one.unfit][:5])
    return False


def _folders(config: DecontaminateConfig) -> list[Path]:
    return [Path(path) for path in ((config.data,) if isinstance(config.data, str) else config.data)]


def _num_workers(config: DecontaminateConfig, num_bytes: int) -> int:
    return 1 if num_bytes < _SERIAL_BYTES else config.workers or len(os.sched_getaffinity(0))
