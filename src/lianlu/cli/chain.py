"""The verbs of the chain: run, plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lianlu.recipe.recipe import Recipe
    from lianlu.recipe.run import Ran

GROUP = "chain"
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file, for example recipes/tiny.toml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="TOML lines laid over the file, for example steps.clean.source=docs/"),
]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="STEP", help="Only this step and what it needs.")]


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("run", rich_help_panel=GROUP)(run)
    app.command("plan", rich_help_panel=GROUP)(plan)


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    only: Only = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    report: Annotated[Path, typer.Option(help="Where to write the report page.")] = Path("report.html"),
) -> None:
    """Run a recipe: make what is missing, reuse the rest, and write a report.

    Killed at any moment, the same command continues. Ctrl-C is safe.
    """
    from lianlu.core import console, processes
    from lianlu.core.store import Store
    from lianlu.recipe.run import run_recipe

    loaded = _load(recipe, overrides, only)
    if dry_run:
        console.out(as_text(loaded))
        return
    store = Store.locate()
    began = time.monotonic()
    results = run_recipe(loaded, store)
    if not processes.is_main():
        return
    made = sum(result.made for result in results)
    if made or not report.exists():
        _finish(loaded.name, results, store.root, report)
    took = console.format_seconds(time.monotonic() - began)
    if made:
        console.info(f"\n{made} of {len(results)} steps made in {took}; report: {report.resolve()}")
    else:
        console.info(f"nothing to do: all {len(results)} steps are there ({took}); report: {report.resolve()}")


def _finish(name: str, results: list[Ran], root: Path, report: Path) -> None:
    from lianlu.apps.report.page import write_report
    from lianlu.core import console

    rows = []
    for result in results:
        manifest = result.artifact.manifest
        main = [f"{k} {console.format_value(v)}" for k, v in manifest.figures.items() if isinstance(v, int | float | str)]
        state = console.format_seconds(manifest.seconds) if result.made else "reused"
        rows.append([result.step.name, state, manifest.digest[:12], "  ".join(main[:4])])
    console.table(["step", "time", "digest", "figures"], rows, title=f"\n{name}")
    write_report(name, [result.artifact for result in results], report)


def plan(recipe: RecipePath, overrides: Overrides = None, only: Only = None) -> None:
    """Say what a recipe will do: run or reuse, with rough time and memory of each step. Nothing is started."""
    from lianlu.core.store import Store
    from lianlu.recipe.plan import plan_recipe, print_plan

    print_plan(plan_recipe(_load(recipe, overrides, only), Store.locate()))


def _load(path: Path, overrides: list[str] | None, only: list[str] | None) -> Recipe:
    from lianlu.recipe.recipe import load_recipe

    loaded = load_recipe(path, overrides or [])
    return loaded.only(only) if only else loaded


def as_text(recipe: Recipe) -> str:
    """The resolved configuration of every step, defaults included, as TOML."""
    from lianlu.core.config import canonical
    from lianlu.recipe.toml_text import dump_toml

    steps = {step.name: {"stage": step.stage_name, **canonical(step.config)} for step in recipe.steps}
    return dump_toml({"steps": steps})
