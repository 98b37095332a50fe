"""Judging texts by counts: a byte n-gram model made from a list of seed texts, for where no checkpoint is at hand.

Seeds are good texts of the kinds and languages that are to be kept; a few megabytes do. `context_cost` lays the counts of the
context over those of the seeds: words and phrases that come again get cheaper, all others a little dearer, as the counts of
a context take weight from what the seeds know. Limits: it sees words, not sense; nothing beyond six bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lianlu.core.errors import DataError
from lianlu.core.files import sha256_file
from lianlu.data.filters.perplexity import Pair, spread
from lianlu.model.ngram import ByteNgram

PIECE_BYTES = 4096
MAX_PIECES = 8
CONTEXT_ORDERS = (3, 6)
"""The narrowest and widest grams counted in a context; narrower ones are the language, which the seeds know better."""
CONTEXT_PRIOR = 64
"""What the seeds count for beside a context; so chosen that unrelated contexts cost and related ones help."""
SEED_BYTES = 16_000_000


class CountModel:
    """Counts and the digest of their file."""

    def __init__(self, counts: ByteNgram, digest: str) -> None:
        self._counts = counts
        self._digest = digest

    @staticmethod
    def load(path: Path) -> CountModel:
        """Read what `train` wrote. Raises: DataError that names the file."""
        return CountModel(ByteNgram.load(path), sha256_file(path))

    @property
    def piece_bytes(self) -> int:
        """The longest text that is judged after a context."""
        return PIECE_BYTES

    def fingerprint(self) -> dict[str, Any]:
        """Digest of the counts and how texts are cut."""
        return {
            "counts": self._digest,
            "piece_bytes": PIECE_BYTES,
            "max_pieces": MAX_PIECES,
            "context": [*CONTEXT_ORDERS, CONTEXT_PRIOR],
        }

    def bits_per_byte(self, text: str) -> float:
        """Mean over the pieces that are read; NaN for an empty text."""
        pieces = [piece.encode() for _, piece in spread(text, PIECE_BYTES, PIECE_BYTES, MAX_PIECES)]
        return self._counts.bits_per_byte(pieces) if pieces else float("nan")

    def context_cost(self, pairs: Sequence[Pair]) -> list[float]:
        """Bits per byte that the context adds to each text."""
        alone = self._counts.probabilities([text.encode() for _, text in pairs])
        ends = np.cumsum([len(text.encode()) for _, text in pairs])[:-1]
        lowest, order = CONTEXT_ORDERS
        costs = []
        for (context, text), below in zip(pairs, np.split(alone, ends), strict=True):
            after = ByteNgram([context.encode()], order, lowest).probabilities([text.encode()], below, CONTEXT_PRIOR)
            costs.append(float(np.mean(np.log2(below) - np.log2(after))))
        return costs


def train(texts: Iterable[str], path: Path, max_bytes: int = SEED_BYTES) -> tuple[int, int]:
    """Count the seed texts, up to `max_bytes` of them, into a file that `CountModel.load` reads.

    Returns the bytes and the texts that were counted. Raises: DataError for none.
    """
    pieces = list(_up_to(texts, max_bytes))
    counts = ByteNgram(pieces)
    if not counts.num_grams:
        raise DataError("there are no seed texts to count", hint="give documents of the kinds that are to be kept")
    counts.save(path)
    return sum(map(len, pieces)), len(pieces)


def _up_to(texts: Iterable[str], left: int) -> Iterator[bytes]:
    for text in texts:
        data = text.encode("utf-8", "replace")[:left]
        left -= len(data)
        yield data
        if not left:
            return
