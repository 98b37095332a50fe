"""`lianlu data train-filter SEEDS --out FILE`: a linear filter from seeds, with figures from texts it was not trained on.

Seeds are a JSONL file of {"text", "label"} with two labels, or a folder with two folders of documents whose names are the
labels. What is held out is chosen by a hash of the text, so that neither order nor repetition leaks; equal texts count once, and
junk that was made of a good text is held out together with it (`filters.related`).
InternLM2 (arXiv 2403.17297, section 3.1.1) trains BERT models for toxicity, porn, advertisement and fluency in this place.

A linear filter knows the junk that it was shown, and little else: held-out figures of the seeds say nothing about another sort of
junk (`bench/data_filters.py`: AUC 0.99 on its own sort, 0.86 on others). Take seeds from what is to be cleaned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.core import console
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import sha256_json
from lianlu.data.filters import logistic
from lianlu.data.filters.linear_filter import LinearFilter, quantised, save
from lianlu.data.filters.ngrams import NgramSettings
from lianlu.data.filters.related import relations
from lianlu.data.read.normalise import normalise
from lianlu.data.read.texts import texts_in
from lianlu.formats import jsonl

UNWANTED = ("toxicity", "porn", "advertisement")
"""Names of filters whose high scores are dropped; all others (quality, fluency) keep them unless told otherwise."""
POSITIVES = ("1", "true", "yes", "positive")
MIN_SEEDS = 10
SHOWN_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
MIN_AUC = 0.8
"""Ours: below this one of five pairs of texts is in the wrong order, and what is dropped is hardly worse than what is kept."""
Flags = npt.NDArray[np.bool_]
Seed = tuple[str, str]
"""A text and its label."""


@dataclass(frozen=True)
class Training:
    """How a filter is trained. `max_chars`: what is read of each text; `held_out`: the share of texts for the figures."""

    ngrams: NgramSettings = field(default_factory=NgramSettings)
    penalty: float = 1e-3
    max_chars: int = 20_000
    held_out: float = 0.2
    seed: int = 0


def train_filter(
    seeds: Path,
    out: Path,
    name: str = "quality",
    positive: str = "",
    training: Training | None = None,
    is_unwanted: bool = False,
) -> LinearFilter:
    """Train a filter, write it to `out`, print its held-out figures and return it.

    `positive` is the label of high scores; it may be left out where that is plain (1, true, yes, positive, or `name`). Documents
    of high scores are dropped if the name is one of `UNWANTED`, or `is_unwanted`; else they are kept.
    Raises: DataError if the seeds cannot be read or are too few, ConfigError if the labels are not two.
    """
    if not name.isidentifier():
        raise ConfigError(f"a filter cannot be called {name!r}", hint="use letters, digits and _, for example quality")
    made = trained(list(read_seeds(seeds)), name, positive, training or Training())
    made = replace(made, is_wanted=made.is_wanted and not is_unwanted)
    save(out, made)
    _show(made, out)
    return made


def trained(seeds: Sequence[Seed], name: str, positive: str = "", training: Training | None = None) -> LinearFilter:
    """A filter from texts with labels; the same texts in any order give the same filter."""
    own = training or Training()
    labels = _labels({label for _, label in seeds}, name, positive)
    rows = sorted({(text[: own.max_chars], label) for text, label in seeds})
    is_held = [_share(rows[first][0], own.seed) < own.held_out for first in relations([text for text, _ in rows])]
    learnt = [row for row, held_out in zip(rows, is_held, strict=True) if not held_out]
    held = [row for row, held_out in zip(rows, is_held, strict=True) if held_out]
    for label in labels:
        _check_count(label, sum(row[1] == label for row in learnt), sum(row[1] == label for row in held))
    counts = logistic.counted([text for text, _ in learnt], own.ngrams)
    weights, bias = logistic.fit(counts, _are(labels[1], learnt), own.penalty)
    table, scale = quantised(weights)
    digest = sha256_json({"seeds": rows, "training": asdict(own)})
    made = LinearFilter(name, labels, name not in UNWANTED, own.ngrams, table, scale, bias, digest)
    found = figures(made.scores([text for text, _ in held]), _are(labels[1], held))
    return replace(made, figures={"texts_to_train_on": len(learnt), **found})


def _are(label: str, rows: Sequence[Seed]) -> Flags:
    return np.array([own == label for _, own in rows], dtype=bool)


def _share(text: str, seed: int) -> float:
    """A number in 0..1 drawn by the text."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace"), seed) / 2**64


def _labels(found: set[str], name: str, positive: str) -> tuple[str, str]:
    """The label of low and that of high scores."""
    if len(found) != 2:
        listed = ", ".join(sorted(found)[:6]) or "none"
        raise ConfigError(
            f"a filter needs two labels, the seeds have {len(found)}: {listed}", hint="label each text with one of two"
        )
    plain = [label for label in found if label == positive or (not positive and label.lower() in (*POSITIVES, name))]
    if len(plain) != 1:
        raise ConfigError(
            f"which of {', '.join(sorted(found))} is to score high?" if not positive else f"no seed is labelled {positive}",
            hint="name the label with --positive",
        )
    (low,) = found - set(plain)
    return low, plain[0]


def _check_count(label: str, learnt: int, held: int) -> None:
    if learnt < MIN_SEEDS or not held:
        raise DataError(
            f"too few different texts are labelled {label}: {learnt} to train on, {held} held out",
            hint=f"at least {MIN_SEEDS} and 1 are needed, some hundreds are better",
        )


def figures(scores: npt.NDArray[np.float64], is_positive: Flags) -> dict[str, Any]:
    """Area under the ROC curve, and precision and recall at some thresholds, each in 0..1."""
    rows = [{"threshold": limit, **_at(scores >= limit, is_positive)} for limit in SHOWN_THRESHOLDS]
    held = {"held_out_positive": int(is_positive.sum()), "held_out_negative": int((~is_positive).sum())}
    return {**held, "auc": round(auc(scores, is_positive), 4), "at": rows}


def _at(chosen: Flags, is_positive: Flags) -> dict[str, float]:
    right = int((chosen & is_positive).sum())
    return {
        "precision": round(right / max(int(chosen.sum()), 1), 4),
        "recall": round(right / max(int(is_positive.sum()), 1), 4),
    }


def auc(scores: npt.NDArray[np.float64], is_positive: Flags) -> float:
    """How often a positive text scores above a negative one, a tie counting half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive, negative = int(is_positive.sum()), int((~is_positive).sum())
    return float((ranks[is_positive].sum() - positive * (positive + 1) / 2) / max(positive * negative, 1))


def read_seeds(source: Path) -> Iterator[Seed]:
    """Texts with labels from a JSONL file or a folder of two folders. Raises: DataError if there are none; warns of bad ones."""
    if source.is_file() and jsonl.is_jsonl(source):
        found = _jsonl_seeds(source)
    elif source.is_dir():
        found = ((text, folder.name) if text else None for folder in _folders(source) for text in texts_in(folder))
    else:
        raise DataError(
            f"{source} is neither JSONL nor a folder", hint='give lines of {"text", "label"}, or two folders of documents'
        )
    read = bad = 0
    for seed in found:
        read += seed is not None
        bad += seed is None
        if seed is not None:
            yield seed
    if bad:
        console.warn(f"{bad} of {read + bad} seeds in {source} have no text, no label, or cannot be read: they are left out")
    if not read:
        raise DataError(f"there are no seeds in {source}", hint='lines of {"text", "label"}, or two folders of documents')


def _folders(source: Path) -> list[Path]:
    return [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _jsonl_seeds(path: Path) -> Iterator[Seed | None]:
    for item in jsonl.read_records(path):
        label = "" if isinstance(item, jsonl.Rejected) else _label(item.value.get("label"))
        if isinstance(item, jsonl.Rejected) or not label or not item.text.strip():
            yield None
        else:
            yield normalise(item.text), label


def _label(value: Any) -> str:
    """A label as it is compared: 1.0, as tables of numbers write it, is 1; empty for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int) else ""


def _show(made: LinearFilter, out: Path) -> None:
    """The figures, and how the filter is used."""
    found = made.figures
    held = f"{found['held_out_positive']} {made.labels[1]} and {found['held_out_negative']} {made.labels[0]}"
    console.out(f"filter {made.name}: trained on {found['texts_to_train_on']} texts; held out {held}: AUC {found['auc']:.4f}")
    console.table([f"{made.labels[1]}, score at least", "precision", "recall"], [list(row.values()) for row in found["at"]])
    side = "top" if made.is_wanted else "bottom"
    console.out(f'high scores are {"kept" if made.is_wanted else "dropped"}, for example by filters=["{out}"] with')
    console.out(
        f"  thresholds.filters.{made.key} = 0.5, or thresholds.filters.{side}_{made.name} = 0.8 for a part of each domain"
    )
    if found["auc"] < MIN_AUC:
        low, high = made.labels
        console.warn(f"{low} and {high} are hardly told apart: take more seeds, or seeds that differ by their words")
