"""The verb below `data` that trains: compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lianlu.recipe.compare_data import Comparison

File = Annotated[Path, typer.Argument(help="Fields of the clean stage, or a recipe, of which the data steps are taken.")]


def compare(
    first: File,
    second: File,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STAGE.KEY=VALUE]...", help="TOML lines, for example pretrain.model.hidden_size=256."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens each model is trained on.")] = 1_000_000,
    seeds: Annotated[int, typer.Option(min=2, help="Models for each side.")] = 3,
    held_out: Annotated[
        str, typer.Option("--held-out", metavar="FILE", help="The text to judge on; else documents that both sides have.")
    ] = "",
    target: Annotated[Path, typer.Option("--out", help="Where the table is written, as .json and .md.")] = Path("data_compare"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")] = False,
) -> None:
    """Which of two ways of making data teaches more: small models on equal tokens, judged on one held-out text.

    Killed at any moment, the same command continues; what one side has made before is not made again.
    """
    from lianlu.cli.chain import as_text
    from lianlu.core import console
    from lianlu.recipe.compare_data import comparison

    planned = comparison((first, second), tokens, seeds, held_out, overrides or [])
    if dry_run:
        console.out(as_text(planned.recipe))
        return
    _run(planned, target)


def _run(planned: Comparison, target: Path) -> None:
    from lianlu.core import console, processes
    from lianlu.core.store import Store
    from lianlu.recipe.compare_summary import notes_of, rows_of, summarize, write_summary
    from lianlu.recipe.run import run_recipe

    results = run_recipe(planned.recipe, Store.locate())
    if not processes.is_main():
        return
    summary = summarize(planned, results)
    console.table(*rows_of(summary))
    for note in notes_of(summary):
        console.out(note)
    console.info(f"written: {', '.join(map(str, write_summary(summary, target)))}")
