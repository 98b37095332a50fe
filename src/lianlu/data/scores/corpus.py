"""All documents of a run under one number each, chunk after chunk, so that what is known of them fits into columns.

Numbers have 32 bits: a corpus has four thousand million documents at most. Nothing is held but where each chunk begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lianlu.core.files import atomic_write
from lianlu.data.scores.scored import Chunk, chunks_in

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Corpus:
    """The chunks in a folder; `starts` has the number of each chunk's first document, and how many documents there are."""

    scored: Path
    starts: npt.NDArray[np.int64]

    @staticmethod
    def of(scored: Path) -> Corpus:
        """That of a finished run."""
        return Corpus(scored, np.cumsum([0, *map(len, chunks_in(scored))], dtype=np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def chunks(self) -> list[Chunk]:
        """All chunks, in order."""
        return [Chunk(self.scored, number) for number in range(len(self.starts) - 1)]

    def slices(self) -> Iterator[tuple[Chunk, slice]]:
        """Each chunk with the numbers of its documents."""
        for number, chunk in enumerate(self.chunks):
            yield chunk, slice(int(self.starts[number]), int(self.starts[number + 1]))

    def rows(self, left: Mask) -> Iterator[tuple[Chunk, int, npt.NDArray[np.int64]]]:
        """Each chunk that has documents left, with the number of its first document and the rows of those that are left."""
        for chunk, own in self.slices():
            if len(rows := np.flatnonzero(left[own])):
                yield chunk, own.start, rows

    def place(self, document: int) -> tuple[int, int]:
        """The chunk of a document, and its row there."""
        number = int(np.searchsorted(self.starts, document, side="right")) - 1
        return number, document - int(self.starts[number])


class Ids:
    """The ids of some documents, in a file; eight bytes a document are held. `documents` are in order, without repeats."""

    def __init__(self, corpus: Corpus, documents: Numbers, path: Path) -> None:
        self._documents = documents
        chosen = np.zeros(len(corpus), dtype=np.bool_)
        chosen[documents] = True
        sizes = [np.empty(0, np.int64)]
        with atomic_write(path) as file:
            for chunk, _, rows in corpus.rows(chosen):
                names = chunk.ids()
                own = [names[row].encode("utf-8", "replace") for row in rows.tolist()]
                file.writelines(own)
                sizes.append(np.fromiter(map(len, own), np.int64, len(own)))
        self._ends = np.cumsum(np.concatenate(sizes))
        self._names = np.memmap(path, np.uint8, "r") if len(self._ends) and self._ends[-1] else np.empty(0, np.uint8)

    def __getitem__(self, document: int) -> str:
        at = int(np.searchsorted(self._documents, document))
        return bytes(self._names[self._ends[at - 1] if at else 0 : self._ends[at]]).decode()


class Shingles:
    """The shingles of documents by their numbers; a few chunks are kept open. It can be sent to another process."""

    OPEN = 64

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._open: dict[int, Callable[[int], npt.NDArray[np.uint64]]] = {}

    def __call__(self, document: int) -> npt.NDArray[np.uint64]:
        number, row = self._corpus.place(document)
        if number not in self._open:
            if len(self._open) >= self.OPEN:
                del self._open[next(iter(self._open))]
            self._open[number] = Chunk(self._corpus.scored, number).sets()
        return self._open[number](row)

    def __reduce__(self) -> tuple[type[Shingles], tuple[Corpus]]:
        return Shingles, (Corpus(self._corpus.scored, self._corpus.starts),)
