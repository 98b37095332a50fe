"""A language model of counts: byte n-grams, for where a checkpoint is not at hand or would be too slow. No torch.

All orders are interpolated with Witten-Bell weights (Witten & Bell 1991, in the recursive form of Chen & Goodman 1998):
`P_k(b | c) = (N(c b) + T(c) P_{k-1}(b | c')) / (N(c) + T(c))`, where T(c) counts the different bytes seen after c and c' is c
without its first byte. Below it all is the uniform distribution over 256 bytes, or what another model says of the same
bytes: counts of one text laid over those of a language say how much that text helps to foresee the next. There are few of
them then, and a fixed weight (a Dirichlet prior, MacKay & Peto 1995) in place of T(c) keeps what the language knows.

Limits: orders up to 8 (a gram is a 64-bit integer); all counts are in memory, about 16 bytes a gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write

ORDER = 5
FORMAT = 1
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Grams = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class _Level:
    """Counts of one order: byte strings and their contexts as integers in rising order."""

    grams: Grams
    gram_counts: Counts
    contexts: Grams
    context_counts: Counts
    context_kinds: Counts


_FIELDS = tuple(_Level.__dataclass_fields__)


class ByteNgram:
    """A byte n-gram model over separate texts; each starts with an empty (zero) context.

    `order` is the width of the widest grams, `lowest` that of the narrowest.
    """

    def __init__(self, texts: Iterable[bytes], order: int = ORDER, lowest: int = 1) -> None:
        self.order, self.lowest = order, lowest
        data, targets = _joined(texts, order)
        self._levels = [_count(_keys(data, targets, width)) for width in range(lowest, order + 1)]

    @property
    def num_grams(self) -> int:
        """How many different grams were counted."""
        return sum(len(level.grams) for level in self._levels)

    def probabilities(self, texts: Iterable[bytes], below: Floats | None = None, prior: float | None = None) -> Floats:
        """Probability of every byte of the texts, one behind the other, given the bytes before it in its text.

        `below` has a probability for each of these bytes by another model, to which the lowest order backs off; `prior` is
        how many observations each lower order counts for, where it is not T(c).
        """
        data, targets = _joined(texts, self.order)
        found = np.full(len(targets), 1 / 256) if below is None else below
        for width, level in enumerate(self._levels, self.lowest):
            keys = _keys(data, targets, width)
            at, known = _places(level.contexts, keys >> np.uint64(8))
            if not known.any():
                continue
            seen = _look_up(level.grams, level.gram_counts, keys)
            total = level.context_counts[at]
            kinds = level.context_kinds[at] if prior is None else prior
            found = np.where(known, (seen + kinds * found) / (total + kinds), found)
        return found

    def bits_per_byte(self, texts: Sequence[bytes]) -> float:
        """Mean of -log2 probability over the bytes of the texts."""
        return float(-np.log2(self.probabilities(texts)).mean()) if any(texts) else 0.0

    def save(self, path: Path) -> None:
        """Write the counts as a NumPy archive; equal models give equal bytes."""
        levels = {f"{name}_{width}": array for width, level in self._numbered() for name, array in level.items()}
        with atomic_write(path) as file:
            np.savez(file, **{"shape": np.array([FORMAT, self.order, self.lowest])}, **levels)  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path) -> ByteNgram:
        """Read what `save` wrote. Raises: DataError that names the file."""
        hint = "make it again from a list of seed texts"
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                version, order, lowest = (int(value) for value in arrays["shape"])
                if version > FORMAT:
                    raise DataError(f"{path} has format {version}, this lianlu reads up to {FORMAT}", hint="upgrade lianlu")
                model = ByteNgram([], order, lowest)
                model._levels = [_Level(*(arrays[f"{name}_{width}"] for name in _FIELDS)) for width in range(lowest, order + 1)]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} is not an n-gram model: {error}", hint=hint) from error
        return model

    def _numbered(self) -> Iterable[tuple[int, dict[str, npt.NDArray[np.generic]]]]:
        for width, level in enumerate(self._levels, self.lowest):
            yield width, dict(zip(_FIELDS, astuple(level), strict=True))


def _joined(texts: Iterable[bytes], order: int) -> tuple[npt.NDArray[np.uint8], Counts]:
    """The texts in one array with `order - 1` zeros before each, and where their bytes are."""
    gap = bytes(order - 1)
    parts = [np.frombuffer(gap + text, dtype=np.uint8) for text in texts]
    data = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)
    is_text = np.ones(len(data), dtype=bool)
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)[:-1]
    for shift in range(order - 1):
        is_text[starts + shift] = False
    return data, np.flatnonzero(is_text)


def _keys(data: npt.NDArray[np.uint8], targets: Counts, width: int) -> Grams:
    """The `width` bytes that end at each target as one integer, the target in the lowest byte."""
    keys = np.zeros(len(targets), dtype=np.uint64)
    for back in range(width - 1, -1, -1):
        keys = (keys << np.uint64(8)) | data[targets - back].astype(np.uint64)
    return keys


def _count(keys: Grams) -> _Level:
    grams, gram_counts = np.unique(keys, return_counts=True)
    contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
    totals = np.add.reduceat(gram_counts, first) if len(first) else np.empty(0, dtype=np.int64)
    return _Level(grams, gram_counts, contexts, totals, np.diff(np.append(first, len(grams))))


def _look_up(grams: Grams, counts: Counts, keys: Grams) -> Counts:
    """The count of each key, 0 for an unknown one."""
    at, known = _places(grams, keys)
    return np.where(known, counts[at], 0) if len(grams) else np.zeros(len(keys), dtype=np.int64)


def _places(grams: Grams, keys: Grams) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Where each key is among the sorted grams, and whether it is there at all."""
    if len(grams) == 0:
        return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(grams, keys), len(grams) - 1)
    return at, grams[at] == keys
