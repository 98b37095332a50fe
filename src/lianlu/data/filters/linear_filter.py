"""A trained linear filter: one number in 0..1 for a text, from hashed n-grams; file format, loading, fast scoring.

The weights are 16-bit integers and the sum over a text is one of integers, so that a score does not depend on batches, on the
number of processes or on the machine. The logit is `bias + scale * mean weight of the n-grams`: length alone moves nothing.

A file is safetensors: tensor `weights` (int16, 2**bits) and, in its metadata under `filter`, a JSON object with format, name,
labels, whether a high score is wanted, n-gram settings, bias, scale, digest of the training texts and held-out figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write, sha256_file
from lianlu.data.filters.ngrams import NgramSettings, hashed, pieces

FORMAT = 1
MAX_WEIGHT = 32767
MAX_BITS = 24
Weights = npt.NDArray[np.int16]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LinearFilter:
    """What a filter is. `labels` are the one of low and the one of high scores; `is_wanted`: documents of high score are kept."""

    name: str
    labels: tuple[str, str]
    is_wanted: bool
    ngrams: NgramSettings
    weights: Weights
    scale: float
    bias: float
    training_digest: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name of its signal: a bound below for what is wanted, above for what is not."""
        return f"{'min' if self.is_wanted else 'max'}_{self.name}"

    def logits(self, texts: Sequence[str]) -> Scores:
        """Log-odds of the second label for each text; the bias alone where a text has no n-gram."""
        totals, counts = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
        for numbers, batch in pieces(texts):
            for grams in hashed(batch, self.ngrams):
                sums = np.concatenate(([0], np.cumsum(self.weights[grams.buckets], dtype=np.int64)))
                np.add.at(totals, numbers, sums[grams.ends] - sums[grams.starts])
                np.add.at(counts, numbers, grams.ends - grams.starts)
        return self.bias + self.scale * (totals / np.maximum(counts, 1))

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probability (0..1) of the second label for each text, both labels taken as equally frequent."""
        return 1 / (1 + np.exp(-np.clip(self.logits(texts), -60, 60)))


def signals(text: str, filters: Sequence[LinearFilter]) -> Iterator[tuple[str, float]]:
    """The score of a text by each filter, as rules see it."""
    for one in filters:
        yield one.key, float(one.scores([text])[0])


def quantised(weights: npt.NDArray[np.float64]) -> tuple[Weights, float]:
    """Weights as 16-bit integers, and what to multiply these by."""
    scale = max(float(np.abs(weights).max(initial=0)), 1e-12) / MAX_WEIGHT
    return np.rint(weights / scale).astype(np.int16), scale


def save(path: Path, filter_: LinearFilter) -> None:
    """Write a filter; equal filters give equal bytes."""
    from safetensors.numpy import save as packed

    header = {name: value for name, value in asdict(filter_).items() if name != "weights"}
    text = json.dumps({"format": FORMAT, **header}, sort_keys=True, ensure_ascii=False)
    with atomic_write(path) as file:
        file.write(packed({"weights": filter_.weights}, metadata={"filter": text}))


def load(path: Path) -> LinearFilter:
    """Read a filter. Raises: DataError that names the file if it is missing, damaged, no filter, or of a future format."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"there is no filter {path}", hint="train one: lianlu data train-filter SEEDS --out FILE")
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {}).get("filter", "null"))
            weights = file.get_tensor("weights") if header else np.empty(0)
        if not header:
            raise DataError(f"{path} is no filter of lianlu", hint="name a file made by lianlu data train-filter")
        if header.pop("format") > FORMAT:
            raise DataError(f"{path} is of a format newer than {FORMAT}", hint="upgrade lianlu")
        return _checked(header, weights)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {error}", hint="copy it again, or train it again") from error


def _checked(header: dict[str, Any], weights: Any) -> LinearFilter:
    raw = header.pop("ngrams")
    ngrams = NgramSettings(tuple(map(int, raw["chars"])), tuple(map(int, raw["words"])), int(raw["bits"]))
    low, high = header.pop("labels")
    if not 1 <= ngrams.bits <= MAX_BITS or weights.dtype != np.int16 or weights.shape != (1 << ngrams.bits,):
        raise ValueError(f"its weights are {weights.dtype}{list(weights.shape)}, its bits {ngrams.bits}")
    return LinearFilter(labels=(str(low), str(high)), ngrams=ngrams, weights=weights, **header)


def digest(path: Path) -> str:
    """What scores by this filter depend on: the SHA-256 of its file."""
    return sha256_file(path)
