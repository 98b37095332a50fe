"""Documents like given ones, by BM25 (Robertson et al. 1994) in numpy: used by `enrich`.

Terms are words in lower case and pairs of neighbouring CJK characters. Only terms of the seeds are counted, since nothing else
is asked for. A seed asks by its 32 heaviest terms; a score is divided by what the seed itself would get, so that scores of
different seeds compare (0..1 for most). The formula is Lucene's: idf ln(1 + (N - n + 0.5) / (n + 0.5)), k1 1.5, b 0.75.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from lianlu.data.rules.characters import CJK
from lianlu.formats.documents import Document

K1, B = 1.5, 0.75
QUERY_TERMS = 32
_RUN = re.compile(f"([{CJK}]+)|[^\\W_{CJK}]{{2,}}")
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def terms_of(text: str) -> Iterator[str]:
    """The terms of a text, in order; a CJK character that stands alone is one."""
    for match in _RUN.finditer(text.lower()):
        run = match.group()
        if match.group(1) and len(run) > 1:
            yield from (run[place : place + 2] for place in range(len(run) - 1))
        else:
            yield run


@dataclass(frozen=True)
class Counts:
    """How often each document has each term: entries of document i are `starts[i]` to `starts[i + 1]`, terms rising.

    `lengths` counts all terms of a document, also those nobody asks for.
    """

    starts: Longs
    terms: Longs
    counts: Floats
    lengths: Longs

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def rows(self) -> Longs:
        """The document of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def block(self, first: int, last: int) -> Counts:
        """Documents `first` to `last`."""
        entries = slice(int(self.starts[first]), int(self.starts[last]))
        return Counts(
            self.starts[first : last + 1] - self.starts[first],
            self.terms[entries],
            self.counts[entries],
            self.lengths[first:last],
        )


class Vocabulary:
    """The terms of the seeds, numbered; it grows while `counts` is called with `grow`."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def counts(self, documents: Iterable[Document], *, grow: bool = False) -> Counts:
        """Count the known terms of documents."""
        found: list[tuple[Longs, Longs]] = []
        lengths: list[int] = []
        for document in documents:
            terms = list(terms_of(document.text))
            if grow:
                for term in terms:
                    self.numbers.setdefault(term, len(self.numbers))
            numbers = np.fromiter(map(self.numbers.get, terms, repeat(-1)), np.int64, len(terms))
            found.append(np.unique(numbers[numbers >= 0], return_counts=True))
            lengths.append(len(terms))
        nothing = np.empty(0, dtype=np.int64)
        starts = np.cumsum([0] + [len(own) for own, _ in found])
        known, counts = (np.concatenate([nothing, *(pair[side] for pair in found)]) for side in (0, 1))
        return Counts(starts, known, counts.astype(np.float64), np.array(lengths, dtype=np.int64))


@dataclass(frozen=True)
class Queries:
    """Queries by term: those that ask for term t are `queries[starts[t]:starts[t + 1]]`; `own`: what each seed gets itself."""

    starts: Longs
    queries: Longs
    own: Floats


class Bm25:
    """The statistics of all collections together, and what they make of single documents."""

    def __init__(self, collections: Sequence[Counts], num_terms: int) -> None:
        num_documents = sum(map(len, collections))
        holding = np.bincount(np.concatenate([own.terms for own in collections]), minlength=num_terms)
        self.idf: Floats = np.log1p((num_documents - holding + 0.5) / (holding + 0.5))
        self._mean = max(sum(int(own.lengths.sum()) for own in collections) / max(num_documents, 1), 1.0)

    def weights(self, counts: Counts) -> Floats:
        """What each entry adds to the score of its document when its term is asked for."""
        room = K1 * (1 - B + B * counts.lengths / self._mean)
        found: Floats = self.idf[counts.terms] * counts.counts / (counts.counts + room[counts.rows])
        return found

    def queries(self, seeds: Counts) -> Queries:
        """For each seed a query of its heaviest terms."""
        weights, rows = self.weights(seeds), seeds.rows
        order = np.lexsort((seeds.terms, -weights, rows))
        rank = np.arange(len(order)) - seeds.starts[rows]
        chosen = order[rank < QUERY_TERMS]
        own = np.bincount(rows[chosen], weights=weights[chosen], minlength=len(seeds))
        by_term = chosen[np.lexsort((rows[chosen], seeds.terms[chosen]))]
        starts = np.searchsorted(seeds.terms[by_term], np.arange(len(self.idf) + 1))
        return Queries(starts, rows[by_term], np.maximum(own, 1e-9))

    def scores(self, counts: Counts, queries: Queries) -> Floats:
        """The score of each document (rows) for each query (columns), 1 being that of the seed itself."""
        weights = self.weights(counts)
        asked = queries.starts[counts.terms + 1] - queries.starts[counts.terms]
        first = queries.starts[counts.terms] - (np.cumsum(asked) - asked)
        columns = queries.queries[np.repeat(first, asked) + np.arange(asked.sum())]
        places = np.repeat(counts.rows, asked) * len(queries.own) + columns
        size = len(counts) * len(queries.own)
        found = np.bincount(places, weights=np.repeat(weights, asked), minlength=size)
        return found.reshape(len(counts), len(queries.own)) / queries.own
