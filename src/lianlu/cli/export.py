"""The verb export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

GROUP = "care"


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("export", rich_help_panel=GROUP)(export)


def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="@step, an id or a folder; a run may still be at work.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to make.")],
    layout: Annotated[str, typer.Option(help="Names of the weights: internlm2, llama, qwen2, qwen3; else the model's own.")] = "",
    dtype: Annotated[str, typer.Option(help="Number type: float32 or bfloat16; else as the run would write it.")] = "",
    step: Annotated[str, typer.Option(help="The state of this step, or best; else the result, or the newest state.")] = "",
    merge: Annotated[bool, typer.Option("--merge", help="Of an adapter: write the whole model, merged.")] = False,
) -> None:
    """Write a run as a Hugging Face folder, also while it is at work or after it was killed."""
    from lianlu.core import console
    from lianlu.core.store import Store
    from lianlu.train.checkpoint.export import Wish, find_run
    from lianlu.train.checkpoint.export import export as export_run

    store = Store.locate()
    said = export_run(find_run(source, store), target, Wish(step, layout, dtype, merge), store)
    console.info(said)
    console.out(str(target))
