"""Perplexity of a document under a model of our own, in bits per byte, which compares across vocabularies and languages.

Two kinds of model answer: a checkpoint (`checkpoint_model`), and counts of byte n-grams made from a list of seed texts
(`count_model`), which needs no checkpoint and reads about a megabyte a second. High values are noise, spam and text of another
kind than the model learned; very low ones are repetition. A long document is judged by pieces evenly spread over it.

What a value means depends on the model, so no bound can be shipped: the digest of the model belongs to the settings of the
scores (`LanguageModel.fingerprint`), and the bound to the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lianlu.core.files import DigestCache
from lianlu.data.rules.textview import TextView

COUNTS = ".npz"
Pair = tuple[str, str]
"""A piece of text, and what stands before it."""


class LanguageModel(Protocol):
    """What judges of texts ask a model; equal texts give equal answers, whatever was asked before."""

    @property
    def piece_bytes(self) -> int:
        """The longest text that `context_cost` takes."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What answers depend on, as JSON values: digest of the files, lengths of pieces."""
        ...

    def bits_per_byte(self, text: str) -> float:
        """Bits that the model needs for a byte of the text, on average; NaN for an empty text."""
        ...

    def context_cost(self, pairs: Sequence[Pair]) -> list[float]:
        """For each (context, text): bits per byte of the text after the context, less those of the text alone.

        Negative where the context helps. No text is empty or longer than `piece_bytes`.
        """
        ...


def signals(view: TextView, model: LanguageModel) -> Iterator[tuple[str, float]]:
    """What the family `perplexity` looks at."""
    value = model.bits_per_byte(view.text)
    yield "min_bits_per_byte", value
    yield "max_bits_per_byte", value


@cache
def opened(path: str) -> LanguageModel:
    """The model at a path, once a process: `.npz` for counts, else a checkpoint (folder or .gguf). Raises: DataError."""
    if path.endswith(COUNTS):
        from lianlu.data.filters.count_model import CountModel

        return CountModel.load(Path(path))
    from lianlu.data.filters.checkpoint_model import CheckpointModel

    return CheckpointModel(Path(path))


def digest(path: Path) -> str:
    """Digest of the files of a model."""
    return DigestCache(path / "none").tree(path)


def spread(text: str, window_bytes: int, piece_bytes: int, max_pieces: int) -> list[Pair]:
    """(context, piece) for at most `max_pieces` pieces of a text, evenly spread, first and last among them.

    Pieces are cut every `piece_bytes`, and moved to the next white space where one is near, so that few words are cut; the
    context is the text before a piece, up to `window_bytes` together. Where all pieces are taken they make up the text.
    """
    data = text.encode("utf-8", "replace")
    cuts = _cuts(data, piece_bytes)
    count = len(cuts) - 1
    if not count:
        return []
    pairs = []
    for index in np.unique(np.linspace(0, count - 1, min(count, max_pieces)).round().astype(int)).tolist():
        start, end = cuts[index], cuts[index + 1]
        before = max(0, end - window_bytes)
        pairs.append((data[before:start].decode("utf-8", "ignore"), data[start:end].decode()))
    return pairs


def _cuts(data: bytes, stride: int) -> list[int]:
    """Places between characters, `stride` bytes apart at most."""
    cuts = [0]
    while cuts[-1] < len(data):
        end = cuts[-1] + stride
        cuts.append(_cut_before(data, end - stride // 8, end) if end < len(data) else len(data))
    return cuts


def _cut_before(data: bytes, lowest: int, end: int) -> int:
    """The last white space in `lowest..end`, else the last place between characters at or before `end`."""
    place = max(data.rfind(b" ", lowest, end), data.rfind(b"\n", lowest, end))
    if place >= lowest:
        return place
    while data[end] & 0xC0 == 0x80:
        end -= 1
    return end
