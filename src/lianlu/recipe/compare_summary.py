"""What a comparison of data found, read from its artifacts: bits per byte of both sides, their difference, and how sure it is.

Two intervals are given, since two things were drawn by chance. Over seeds: Student's t of the paired differences, one for each
seed (new weights and order of the text). Over documents: a paired bootstrap of the held-out documents, each with its mean over
the seeds. A difference counts only where neither holds 0. With three seeds the first is wide, and rightly so.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core import console
from lianlu.core.errors import DataError
from lianlu.core.files import write_json, write_text
from lianlu.core.store import Artifact
from lianlu.eval import stats
from lianlu.eval.metrics import finite
from lianlu.recipe.compare_data import HELD_OUT, TOKENIZER, Comparison, Side
from lianlu.recipe.run import Ran
from lianlu.train.pretrain import JUDGED

FORMAT = 1
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """The held-out documents of all runs of a side: bits by seed and document, bytes and sources of the documents."""

    ids: tuple[str, ...]
    sources: tuple[str, ...]
    num_bytes: Floats
    bits: Floats

    @property
    def by_seed(self) -> list[float]:
        """Bits per byte of each seed."""
        return [float(value) for value in self.bits.sum(axis=1) / self.num_bytes.sum()]

    def by_source(self) -> dict[str, float]:
        """Mean bits per byte of each source, where there is more than one."""
        sources = np.array(self.sources)
        names = sorted(set(self.sources)) if len(set(self.sources)) > 1 else []
        mean = self.bits.mean(axis=0)
        return {name: float(mean[sources == name].sum() / self.num_bytes[sources == name].sum()) for name in names}


def read_judged(folders: Sequence[Path]) -> Judged:
    """What the runs of a side were judged to. Raises: DataError if they were not judged on the same documents."""
    rows = [[json.loads(line) for line in (folder / JUDGED).read_text(encoding="utf-8").splitlines()] for folder in folders]
    documents = [[(row["id"], row["bytes"]) for row in run] for run in rows]
    if any(other != documents[0] for other in documents):
        raise DataError("the models were judged on different documents", hint="run the comparison again")
    ids, sizes = zip(*documents[0], strict=True)
    bits = np.array([[row["bits"] for row in run] for run in rows])
    return Judged(ids, tuple(row["source"] for row in rows[0]), np.array(sizes, dtype=np.float64), bits)


def summarize(comparison: Comparison, results: Sequence[Ran]) -> dict[str, Any]:
    """The comparison as JSON values. Raises: DataError if the two sides were judged on different documents."""
    made = {result.step.name: result.artifact for result in results}
    runs = {side.name: [made[name] for name in comparison.runs(side)] for side in comparison.sides}
    first, second = (read_judged([artifact.path for artifact in own]) for own in runs.values())
    sides = [_side(side, runs[side.name], judged, made) for side, judged in zip(comparison.sides, (first, second), strict=True)]
    held_out = made[HELD_OUT]
    unsearched = sum(sum(made[f"{side.name}-train"].manifest.figures["items_too_short"].values()) for side in comparison.sides)
    return {
        "format": FORMAT,
        "held_out": {"artifact": held_out.id, "documents": len(first.ids), "bytes": int(first.num_bytes.sum())},
        "held_out_not_searched_for": unsearched,
        "tokenizer": made[TOKENIZER].id,
        "parameters": runs[comparison.sides[0].name][0].manifest.figures["parameters"],
        "tokens": runs[comparison.sides[0].name][0].manifest.figures["tokens"],
        "seconds": sum(artifact.manifest.seconds for artifact in made.values()),
        "sides": sides,
        "difference": difference(first, second),
    }


def _side(side: Side, runs: Sequence[Artifact], judged: Judged, made: Mapping[str, Artifact]) -> dict[str, Any]:
    train, shard = made[f"{side.name}-train"].manifest, made[f"{side.name}-shard"].manifest
    figures = runs[0].manifest.figures
    return {
        "name": side.name,
        "file": str(side.file),
        "documents": train.figures["documents"],
        "like_held_out": train.figures["dropped"],
        "text_bytes": shard.figures["text_bytes"],
        "train_tokens": shard.figures["train_tokens"],
        "epochs": figures["epochs"],
        "bits_per_byte_start": figures["bits_per_byte_start"],
        "bits_per_byte": judged.by_seed,
        "mean": statistics.fmean(judged.by_seed),
        "spread": statistics.stdev(judged.by_seed),
        "by_source": judged.by_source(),
        "artifacts": [artifact.id for artifact in runs],
    }


def difference(first: Judged, second: Judged) -> dict[str, Any]:
    """Second minus first, in bits per byte, with 95% intervals over seeds and over documents.

    Raises: DataError if they were judged on different documents.
    """
    if first.ids != second.ids or not np.array_equal(first.num_bytes, second.num_bytes):
        raise DataError("the two sides were judged on different documents", hint="run the comparison again")
    by_seed = [two - one for one, two in zip(first.by_seed, second.by_seed, strict=True)]
    values = [
        stats.make_values((own.bits.mean(axis=0) / own.num_bytes).tolist(), own.num_bytes.tolist()) for own in (first, second)
    ]
    gap = stats.compare(*values)
    over_seeds, over_documents = paired_interval(by_seed), (gap.low, gap.high)
    clear = all(low > 0 or high < 0 for low, high in (over_seeds, over_documents))
    return {
        "by_seed": by_seed,
        "mean": statistics.fmean(by_seed),
        "relative": statistics.fmean(by_seed) / statistics.fmean(first.by_seed),
        "over_seeds": [finite(edge) for edge in over_seeds],
        "over_documents": [finite(edge) for edge in over_documents],
        "significant": clear,
    }


def paired_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of paired differences, two at least."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(stdtrit(len(differences) - 1, (1 + level) / 2)) * error
    return mean - half, mean + half


def verdict(summary: Mapping[str, Any]) -> str:
    """The finding in a sentence."""
    gap, (first, second) = summary["difference"], summary["sides"]
    better, worse = (second, first) if gap["mean"] < 0 else (first, second)
    size = f"{abs(gap['mean']):.4f} bits per byte ({abs(gap['relative']):.1%})"
    if gap["significant"]:
        return f"{better['name']} is better than {worse['name']} by {size}"
    return f"no difference is shown: {better['name']} is ahead by {size}, but an interval holds 0"


def rows_of(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The table of both sides and their difference: names of columns, and rows of text."""
    columns = ["", "documents", "text", "train tokens", "epochs", "bits per byte", "spread", "by seed"]
    sources = sorted({source for side in summary["sides"] for source in side["by_source"]})
    rows: list[list[Any]] = []
    for side in summary["sides"]:
        size, by_seed = console.format_bytes(side["text_bytes"]), " ".join(f"{value:.4f}" for value in side["bits_per_byte"])
        amounts = [f"{side['documents']:,}", size, f"{side['train_tokens']:,}", f"{side['epochs']:.2f}"]
        each = [f"{side['by_source'][source]:.4f}" for source in sources]
        rows.append([side["name"], *amounts, f"{side['mean']:.4f}", f"{side['spread']:.4f}", by_seed, *each])
    gap, (first, second) = summary["difference"], summary["sides"]
    each = [f"{second['by_source'][source] - first['by_source'][source]:+.4f}" for source in sources]
    by_seed = " ".join(f"{value:+.4f}" for value in gap["by_seed"])
    spread = f"{statistics.stdev(gap['by_seed']):.4f}"
    rows.append(["difference", "", "", "", "", f"{gap['mean']:+.4f}", spread, by_seed, *each])
    return [*columns, *sources], rows


def notes_of(summary: Mapping[str, Any]) -> list[str]:
    """What belongs below the table."""
    gap, held_out = summary["difference"], summary["held_out"]
    seeds = len(gap["by_seed"])
    told = f"{held_out['documents']:,} held-out documents, {console.format_bytes(held_out['bytes'])}"
    trained = f"{summary['parameters'] / 1e6:.1f} M parameters, {summary['tokens']:,} tokens, {seeds} seeds; {told}"
    copies = ", ".join(f"{side['like_held_out']:,} of {side['name']}" for side in summary["sides"])
    notes = [
        f"{trained}; left out of the training text for what they share with those: {copies}.",
        f"95% of the difference over seeds (paired t): {_interval(gap['over_seeds'])}; "
        f"over documents (paired bootstrap): {_interval(gap['over_documents'])}.",
    ]
    if summary["held_out_not_searched_for"]:
        notes.append(f"{summary['held_out_not_searched_for']} held-out documents could not be searched for in the training text.")
    return [*notes, f"{verdict(summary)}."]


def _interval(edges: Sequence[float | None]) -> str:
    return " to ".join("?" if edge is None else f"{edge:+.4f}" for edge in edges)


def as_markdown(summary: Mapping[str, Any]) -> str:
    """Table and notes as Markdown."""
    columns, rows = rows_of(summary)
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    table = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return "\n\n".join([table, *notes_of(summary)]) + "\n"


def write_summary(summary: Mapping[str, Any], target: Path) -> tuple[Path, Path]:
    """Write TARGET.json and TARGET.md; returns both paths."""
    found = target.with_name(target.name + ".json"), target.with_name(target.name + ".md")
    write_json(found[0], summary)
    write_text(found[1], as_markdown(summary))
    return found
