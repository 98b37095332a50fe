"""Which documents of a corpus repeat others: exact duplicates first, near duplicates among the rest.

Exact: equal but for white space; the first is kept. Near: see `near_dedup` and `near_groups`; the longest is kept. What is
known of a duplicate is a row of 19 bytes (`REPEAT`); hashes and keys go through files, a part of them in memory at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.pool import Engine
from lianlu.data.dedup import semantic
from lianlu.data.dedup.near_dedup import NUM_BANDS, Longs
from lianlu.data.dedup.near_groups import Columns, Numbers
from lianlu.data.dedup.near_groups import near_duplicates as find_near
from lianlu.data.dedup.spill import Spill, num_partitions
from lianlu.data.rules.characters import Hashes
from lianlu.data.scores.corpus import Corpus, Mask, Shingles

Place = tuple[int, int]
"""Number of the chunk, row in it."""
STEPS = ("exact_dedup", "near_dedup", "semantic_dedup")
REPEAT = np.dtype([("document", "<u4"), ("kept", "<u4"), ("similarity", "<f8"), ("step", "u1"), ("earlier", "<u2")])
"""A document that is dropped: the one it repeats, how similar they are (0..1), the step (of `STEPS`), and where the kept one
is: 0 for this corpus, else in which of the indexes of earlier ones, from 1, where `kept` is a row of it."""
Repeats = npt.NDArray[Any]
_HASHED = np.dtype([("first", "<u8"), ("second", "<u8"), ("document", "<u4")])


def repeats(step: str, documents: Any, kept: Any, similarity: Any) -> Repeats:
    """Rows about duplicates within this corpus."""
    rows = np.zeros(len(documents), REPEAT)
    rows["document"], rows["kept"], rows["similarity"] = documents, kept, similarity
    rows["step"] = STEPS.index(step)
    return rows


def exact_duplicates(corpus: Corpus, left: Mask, folder: Path) -> Repeats:
    """What each of the documents that are left repeats, if anything, in their order; `folder` is for files on the way."""
    with Spill(folder / "exact", _HASHED, num_partitions(int(left.sum()))) as spill:
        for chunk, start, rows in corpus.rows(left):
            records = np.empty(len(rows), _HASHED)
            halves = np.ascontiguousarray(chunk.exact[rows]).view("<u8").reshape(len(rows), 2)
            records["first"], records["second"], records["document"] = halves[:, 0], halves[:, 1], start + rows
            spill.add(records, halves[:, 0])
    found = np.concatenate([np.empty(0, REPEAT), *map(_equal, spill)])
    return found[np.argsort(found["document"], kind="stable")]


def _equal(records: npt.NDArray[Any]) -> Repeats:
    """Those of a partition that have the hash of an earlier one."""
    records = records[np.lexsort((records["second"], records["first"]))]
    new = np.ones(len(records), dtype=np.bool_)
    for half in ("first", "second"):
        new[1:] &= records[half][1:] == records[half][:-1]
    new[1:] ^= True
    firsts = records["document"][np.flatnonzero(new)][np.cumsum(new) - 1]
    return repeats("exact_dedup", records["document"][~new], firsts[~new], 1.0)


def near_duplicates(corpus: Corpus, left: Mask, min_jaccard: float, folder: Path, engine: Engine) -> Repeats:
    """The same for near duplicates, compared where `engine` has workers."""
    documents = _with_keys(corpus, left, folder)

    def band(number: int) -> Hashes:
        return np.fromfile(folder / "keys" / f"{number:04d}", np.uint64)

    def lengths() -> Longs:
        with_shingles = np.zeros(len(corpus), dtype=np.bool_)
        with_shingles[documents] = True
        return np.concatenate([np.empty(0, np.int64), *(chunk.num_bytes[rows] for chunk, _, rows in corpus.rows(with_shingles))])

    found = find_near(Columns(documents, lengths, band), Shingles(corpus), min_jaccard, folder, engine)
    return repeats("near_dedup", found["document"], found["kept"], found["similarity"])


def _with_keys(corpus: Corpus, left: Mask, folder: Path) -> Numbers:
    """Write the keys of each band to a file of its own; returns the documents they belong to, those that have shingles."""
    documents = [np.empty(0, np.uint32)]
    with Spill(folder / "keys", np.uint64, NUM_BANDS) as spill:
        for chunk, start, rows in corpus.rows(left):
            chosen = rows[np.diff(chunk.ends, prepend=0)[rows] > 0]
            documents.append((start + chosen).astype(np.uint32))
            for number, keys in enumerate(chunk.bands[chosen].T):
                spill.put(number, keys)
    return np.concatenate(documents)


def semantic_duplicates(corpus: Corpus, left: Mask, min_cosine: float) -> Repeats:
    """The same for texts that say the same in other words; all their vectors are in memory."""
    lengths = [np.empty(0, np.int64)]
    lengths += [chunk.num_bytes[rows] for chunk, _, rows in corpus.rows(left)]
    texts = (
        document.text
        for chunk, own in corpus.slices()
        for document, is_left in zip(chunk.documents(), left[own].tolist(), strict=True)
        if is_left
    )
    found = list(semantic.find_duplicates(np.concatenate(lengths), semantic.tfidf_vectors(texts), min_cosine))
    table = np.array(found, [("document", "<i8"), ("kept", "<i8"), ("similarity", "<f8")])
    table = table[np.argsort(table["document"])]
    numbers = np.flatnonzero(left)
    return repeats("semantic_dedup", numbers[table["document"]], numbers[table["kept"]], table["similarity"])
