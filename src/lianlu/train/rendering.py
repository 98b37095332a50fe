"""Many records rendered: in this process, or in several where that is worth their start. In order, whoever did it.

Records go out as the text they have in the file, so that parsing is done by the workers too. No torch here: a worker loads
a tokenizer and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial

from lianlu.core.pool import in_order
from lianlu.formats.examples.record import Raw
from lianlu.formats.examples.sources import Source
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.conversations import Outcome, Renderer

CHUNK_RECORDS = 256
CHUNK_CHARS = 1 << 19
MAX_WORKERS = 32


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one source; `num_chars` is about their size."""

    source: int
    records: list[Raw]
    num_chars: int


@dataclass(frozen=True)
class Way:
    """How records are rendered: with the tokenizer of `model`, to at most `max_length` inputs, longer ones cut or left out."""

    model: str
    max_length: int
    cut: bool

    def renderer(self, tokenizer: Tokenizer | None = None) -> Renderer:
        """One that does it."""
        return Renderer(tokenizer or Tokenizer.load(self.model), self.max_length, self.cut)


def chunks(sources: Sequence[Source], after: tuple[int, int]) -> Iterator[Chunk]:
    """Records of all sources in order, those after `after` (number of the source, place in it) only."""
    for number, source in enumerate(sources):
        if number < after[0]:
            continue
        records: list[Raw] = []
        size = 0
        for raw in source.read():
            if number == after[0] and raw.place <= after[1]:
                continue
            records.append(raw)
            size += _num_chars(raw)
            if len(records) >= CHUNK_RECORDS or size >= CHUNK_CHARS:
                yield Chunk(number, records, size)
                records, size = [], 0
        if records:
            yield Chunk(number, records, size)


def rendered(
    sources: Sequence[Source], work: Iterable[Chunk], way: Way, tokenizer: Tokenizer, workers: int
) -> Generator[tuple[Chunk, list[Outcome]]]:
    """What became of the records of each chunk, with so many processes.

    Raises: DataError if a worker dies.
    """
    if workers <= 1:
        renderer = way.renderer(tokenizer)
        for chunk in work:
            yield chunk, [renderer.outcome(sources[chunk.source], raw) for raw in chunk.records]
        return
    jobs = ((sources[chunk.source], chunk) for chunk in work)
    with closing(in_order(partial(_render, way), jobs, workers, _doing)) as results:
        for (_, chunk), outcomes in results:
            yield chunk, outcomes


def _num_chars(raw: Raw) -> int:
    if isinstance(raw.data, bytes | str):
        return len(raw.data)
    return sum(len(value) if isinstance(value, str) else 100 for value in raw.data.values())


@cache
def _own_renderer(way: Way) -> Renderer:
    """That of this worker, made once, with one thread for its tokenizer."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return way.renderer()


def _render(way: Way, job: tuple[Source, Chunk]) -> list[Outcome]:
    source, chunk = job
    return [_own_renderer(way).outcome(source, raw) for raw in chunk.records]


def _doing(job: tuple[Source, Chunk]) -> str:
    source, chunk = job
    return f"rendered {source.where(chunk.records[0].place)}"
