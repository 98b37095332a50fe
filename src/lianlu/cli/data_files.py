"""The verbs below `data` that write files: export, report, train-filter, train-counts, forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Cleaned = Annotated[str, typer.Argument(metavar="ARTIFACT", help="@step, or the beginning of an id; else the current one.")]


def add_verbs(group: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb in (export, report, forget):
        group.command()(verb)
    group.command("train-filter")(train_filter)
    group.command("train-counts")(train_counts)


def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="@step, an id, a folder or a file of documents.")],
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write: .jsonl, .jsonl.gz, .jsonl.zst, .parquet.")],
    layout: Annotated[str, typer.Option("--format", help="wanjuan, jsonl or parquet; else told from the name.")] = "",
) -> None:
    """Write documents for other programs: WanJuan's format, JSONL or Parquet."""
    from lianlu.core import console
    from lianlu.core.errors import ConfigError
    from lianlu.core.store import Store
    from lianlu.data.export import WRITERS
    from lianlu.data.export import export as write

    form = layout or ("parquet" if target.suffix == ".parquet" else "jsonl")
    if form not in WRITERS:
        raise ConfigError(f"there is no format {form}", hint=f"one of {', '.join(WRITERS)}")
    folder = Path(source) if Path(source).exists() else Store.locate().get(source).path
    console.out(f"{write(folder, target, form)} documents in {target}")


def report(
    name: Cleaned = "", target: Annotated[Path, typer.Option("--to", help="The page to write.")] = Path("data.html")
) -> None:
    """Draw cleaned data as a page: funnel, distributions with thresholds, samples on both sides, clusters, costs."""
    from lianlu.core import console
    from lianlu.core.errors import ConfigError
    from lianlu.core.store import Store
    from lianlu.data.cleaned import open_cleaned
    from lianlu.data.report.page import write_data_report

    found = open_cleaned(Store.locate(), name)
    if len(found) > 1:
        steps = ", ".join(f"@{cleaned.artifact.manifest.step}" for cleaned in found)
        raise ConfigError("there are several cleaned artifacts", hint=f"choose one: {steps}")
    (cleaned,) = found
    write_data_report(cleaned.artifact.manifest.step, cleaned.artifact.path, cleaned.scored, cleaned.rules, target)
    console.out(str(target))


def train_filter(
    seeds: Annotated[
        Path, typer.Argument(metavar="SEEDS", help="JSONL with text and label, or a folder with a folder for each label.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The filter to write.")],
    name: Annotated[
        str, typer.Option(help="What it tells: quality, fluency, advertisement, toxicity, porn, or a name of yours.")
    ] = "quality",
    positive: Annotated[str, typer.Option(help="The label of high scores, where that is not plain.")] = "",
    unwanted: Annotated[
        bool, typer.Option("--unwanted", help="High scores are to be dropped; known of advertisement, toxicity and porn.")
    ] = False,
) -> None:
    """Train a linear classifier from a seed list, for the rules filters.min_NAME and top_NAME, or max_NAME and bottom_NAME."""
    from lianlu.data.train_filter import train_filter as train

    train(seeds, out, name, positive, is_unwanted=unwanted)


def train_counts(
    seeds: Annotated[Path, typer.Argument(metavar="SEEDS", help="A folder or file of texts of all kinds that are to be kept.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The counts to write, for example counts.npz.")],
) -> None:
    """Count the bytes of good texts: a model for the rules perplexity and long_text where no checkpoint is at hand."""
    from lianlu.core import console
    from lianlu.data.filters import count_model
    from lianlu.data.read.texts import texts_in

    num_bytes, num_texts = count_model.train((text for text in texts_in(seeds) if text), out)
    console.out(f"counted {num_bytes / 1e6:.1f} MB of {num_texts:,} texts (at most {count_model.SEED_BYTES / 1e6:.0f} MB)")
    console.out(f"use: model={out} with thresholds.perplexity.max_bits_per_byte, set by lianlu data tune")


def forget(
    name: Annotated[str, typer.Argument(metavar="URL|ID", help="The address or id of a document, as it was read.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the files again without it; else only say which they are.")
    ] = False,
) -> None:
    """Which documents, scores and shards hold this document; --apply writes them again without it and lets it in no more."""
    from lianlu.core import console
    from lianlu.core.errors import DataError
    from lianlu.core.store import Store
    from lianlu.data.forget import forget as forget_document

    holders = forget_document(Store.locate(), name, apply)
    if not (holders.found or holders.unfinished or holders.begun or apply):
        raise DataError(f"nothing here holds {name}", hint="give the id or the URL that the document had in its source")
    rows = [[h.artifact.id, h.num_documents, h.num_tokens, " ".join(h.files)] for h in holders.found]
    console.table(["artifact", "documents", "tokens", "files rewritten" if apply else "files to rewrite"], rows)
    for artifact in holders.learned:
        console.warn(f"{artifact.id} has learnt from it and cannot be rewritten: train it again")
    for path in holders.unsearched:
        console.warn(f"{path} has no index of its documents and was not searched: make it again")
    for source in holders.outside:
        console.warn(f"{source} may still hold it: runs of this store leave it out, other programs do not")
    for folder, chunks in holders.unfinished.items():
        console.out(f"{folder}, not finished: {len(chunks)} chunks {'are' if apply else 'would be'} made anew without it")
    for folder in holders.begun:
        console.out(f"{folder}, not finished: {'starts' if apply else 'would start'} again without it")
    for folder in holders.at_work:
        console.warn(f"{folder} is being made and has read the list before: run this again when it has ended")
    if not apply:
        console.out("nothing was changed; --apply rewrites, and puts it on the list of what is not read again")
    elif not holders.found:
        console.out(f"nothing here holds {name}; it is on the list of what is not read")
