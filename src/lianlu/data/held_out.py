"""The held-out stage: documents that models are judged on, chosen by a hash of their ids, to be kept out of training text.

    documents (of one side, or of two that are compared) -> part-NNNNN.parquet

With `also_in` only those documents are chosen that stand there too, letter for letter: what neither side has dropped or edited
favours neither. `meta.task` makes items of them, so that the decontaminate stage takes them out of what is trained on, and
with them whatever repeats half of one. Documents too short to be searched for are not chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import xxhash
from pydantic import Field

from lianlu.core.config import Config, Documents
from lianlu.core.errors import DataError
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.data.rules.textview import TextView
from lianlu.formats.documents import Document, read_documents, write_documents

TASK = "held-out"


class HeldOutConfig(Config):
    """Which documents are held out, and how many."""

    data: Documents | tuple[Documents, ...]
    """The documents to choose from: one folder, or several."""
    also_in: tuple[Documents, ...] = ()
    """Only documents that stand in these as well, with the same id and text."""
    share: float = Field(0.05, gt=0, le=1)
    """Share of the documents that qualify."""
    max_bytes: int = Field(1_000_000, gt=0)
    """Bytes of text at most; one document is always taken."""
    min_tokens: int = Field(50, ge=10)
    """Words, or CJK characters, of a document at least."""
    seed: int = 0
    """Decides which documents."""


def estimate(config: HeldOutConfig) -> Estimate:
    """Reading documents twice."""
    return Estimate(10, 300_000_000, "reading documents")


def run(config: HeldOutConfig, out: Output) -> None:
    """Write the held-out documents. Raises: DataError if none qualifies."""
    folders = (config.data,) if isinstance(config.data, str) else config.data
    texts = {document.id: _digest(document) for document in _read(config.also_in)}
    sizes: dict[str, int] = {}
    for document in _read(folders):
        agreed = not config.also_in or texts.get(document.id) == _digest(document)
        if agreed and len(TextView(document.text).tokens()) >= config.min_tokens:
            sizes[document.id] = len(document.text.encode("utf-8", "replace"))
    chosen = set(_chosen(sizes, config))
    if not chosen:
        where = "stands in both with the same text" if config.also_in else f"has {config.min_tokens} words or characters"
        hint = "hold out a text of its own: lianlu data compare ... --held-out FILE"
        raise DataError(f"no document {where}", hint=hint)
    count = write_documents(out.path, (_item(document) for document in _read(folders) if document.id in chosen))
    num_bytes = sum(sizes[name] for name in chosen)
    out.figures.update(documents=count, bytes=num_bytes, documents_that_qualify=len(sizes))


def _read(folders: Sequence[str]) -> Iterator[Document]:
    return chain.from_iterable(read_documents(Path(folder)) for folder in folders)


def _digest(document: Document) -> bytes:
    return xxhash.xxh3_128_digest(document.text.encode("utf-8", "replace"))


def _chosen(sizes: dict[str, int], config: HeldOutConfig) -> Iterator[str]:
    """Ids in the order of their hashes, until the share or the bytes are used up."""
    order = sorted(sizes, key=lambda name: xxhash.xxh3_64_intdigest(f"held out {config.seed}\0{name}".encode("utf-8", "replace")))
    taken = 0
    for number, name in enumerate(order):
        if number and (number >= config.share * len(order) or taken + sizes[name] > config.max_bytes):
            return
        taken += sizes[name]
        yield name


def _item(document: Document) -> Document:
    return replace(document, meta={**document.meta, "task": TASK, "item": document.id})
