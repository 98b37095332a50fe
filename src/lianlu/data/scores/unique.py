"""Ids that occur once in what a stage writes: a second `x` becomes `x~2`, or the next number that no document has as its own.

A document that is the first with its id keeps it, also one that was called `x~2` from the start. The ids of all documents have to
be known before the first is written, as hashes: eight bytes a document, and four for its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.formats.documents import Document

if TYPE_CHECKING:  # reading asks for copies too, and a corpus is made of what was read
    from lianlu.data.scores.corpus import Corpus

Hashes = npt.NDArray[np.uint64]
COPY = re.compile(r"~[0-9]+$")
"""What the id of a copy ends with."""


def repeated_ids(corpus: Corpus) -> Hashes:
    """The hashes of the ids of a corpus; those that repeat stand side by side."""
    return id_hashes((name for chunk in corpus.chunks for name in chunk.ids()), len(corpus))


def id_hashes(ids: Iterable[str], count: int = -1) -> Hashes:
    """The hashes of ids, sorted; `count` of them, if it is known."""
    hashes = np.fromiter((_hash(name) for name in ids), np.uint64, count)
    hashes.sort()
    return hashes


def unique(documents: Iterable[Document], hashes: Hashes) -> Iterator[Document]:
    """The same documents with ids that occur once.

    `hashes` are those of all their ids, as often as they occur, sorted; more do no harm but to numbers, which are then left out.
    """
    numbers = np.ones(len(hashes), np.uint32)
    for document in documents:
        own = _hash(document.id)
        place = int(np.searchsorted(hashes, hashes.dtype.type(own)))
        if place + 1 < len(hashes) and hashes[place + 1] == own:
            document.id, numbers[place] = _next(document.id, int(numbers[place]), hashes)
        yield document


def _next(name: str, number: int, hashes: Hashes) -> tuple[str, int]:
    """An id that is free, and the number after that of this copy.

    Copies of different ids cannot meet: all up to the last `~` differs.
    """
    while number > 1 and _has(hashes, f"{name}~{number}"):
        number += 1
    return (f"{name}~{number}" if number > 1 else name), number + 1


def _has(hashes: Hashes, name: str) -> bool:
    own = _hash(name)
    place = int(np.searchsorted(hashes, hashes.dtype.type(own)))
    return place < len(hashes) and bool(hashes[place] == own)


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "replace"))
