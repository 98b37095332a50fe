"""Ids that occur once in what a stage writes, without remembering them all: eight bytes a document, and those that repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import xxhash

from lianlu.data.scores.corpus import Corpus
from lianlu.formats.documents import Document


def repeated_ids(corpus: Corpus) -> set[int]:
    """The hashes of ids that several documents have."""
    hashes = np.empty(len(corpus), np.uint64)
    for chunk, own in corpus.slices():
        hashes[own] = [_hash(name) for name in chunk.ids()]
    hashes.sort()
    return set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


def unique(documents: Iterator[Document], repeated: set[int]) -> Iterator[Document]:
    """The same documents with ids that occur once: a second `x` becomes `x~2`; only ids in `repeated` (hashes) are looked at."""
    seen: Counter[str] = Counter()
    for document in documents:
        if _hash(document.id) in repeated:
            seen[document.id] += 1
            if seen[document.id] > 1:
                document.id = f"{document.id}~{seen[document.id]}"
        yield document


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "replace"))
