"""One verb a stage: `lianlu sft model=smollm2-135m-instruct data=chats.jsonl`, with the Config fields as help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

GROUP = "stages"
# Shown in `lianlu --help` without importing the stages themselves.
SUMMARIES = {
    "clean": "Raw text to clean documents: extraction, rules, deduplication, personal data.",
    "eval-items": "The items of evaluation tasks, as documents to search a corpus for.",
    "decontaminate": "Drop documents that hold evaluation items; planted items must be found.",
    "held-out": "Documents to judge models on, by a hash of their ids; decontaminate takes them out of the rest.",
    "enrich": "More documents like given ones, topic by topic, out of a pool.",
    "repositories": "Join the files of each repository to Markdown, in order of their imports.",
    "tokenizer": "Train a byte-level BPE tokenizer on documents.",
    "shard": "Documents to token shards with document boundaries.",
    "chat-data": "Questions and answers from docstrings, as conversations.",
    "pretrain": "Train a model on token shards: a new one, or on from a checkpoint.",
    "sft": "Fine-tune a model on conversations or texts (LoRA, QLoRA or full).",
    "merge": "Merge an adapter into the weights of its model.",
    "quantize": "Int8 weights, with a quality card.",
    "eval": "Score a model on tasks, with confidence intervals.",
    "compare": "Compare evaluations pairwise.",
}
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.toml] [KEY=VALUE]...", help="A TOML file of this stage or a recipe, then fields."),
]


def add_verbs(app: typer.Typer) -> None:
    """Add a verb for every stage."""
    for name, summary in SUMMARIES.items():
        app.command(name, help=summary, rich_help_panel=GROUP, context_settings={"help_option_names": []})(_verb(name))


def _verb(name: str) -> Any:
    def verb(
        words: Words = None,
        show_help: Annotated[bool, typer.Option("--help", "-h", help="Show the fields of this stage.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    ) -> None:
        if show_help or not words:
            _print_fields(name)
        else:
            _run_stage(name, words, dry_run)

    return verb


def _print_fields(name: str) -> None:
    from lianlu.core import console
    from lianlu.core.config import describe
    from lianlu.stages import STAGES

    console.out(f"Usage: lianlu {name} [FILE.toml] [KEY=VALUE]... [--dry-run]\n\n{SUMMARIES[name]}\n")
    rows = [list(row) for row in describe(STAGES[name].config_class())]
    console.table(["field", "type", "default", "meaning"], rows)


def _run_stage(name: str, words: list[str], dry_run: bool) -> None:
    from lianlu.core import console
    from lianlu.core.config import canonical
    from lianlu.core.store import Store
    from lianlu.recipe.run import run_recipe
    from lianlu.recipe.toml_text import dump_toml

    recipe = _recipe_of(name, words)
    if dry_run:
        console.out(dump_toml({step.name: canonical(step.config) for step in recipe.steps}))
        return
    for result in run_recipe(recipe, Store.locate()):
        state = "made" if result.made else "reused"
        console.out(f"{result.step.name}: {state} {result.artifact.path}")


def _recipe_of(name: str, words: list[str]) -> Any:
    """A one-step recipe from fields, from a flat TOML file, or the steps of this stage in a recipe file."""
    from lianlu.core.config import read_toml, with_overrides
    from lianlu.core.errors import ConfigError
    from lianlu.recipe.recipe import build_recipe

    table: dict[str, Any] = {}
    overrides = list(words)
    if "=" not in words[0]:
        table, overrides = read_toml(Path(words[0])), overrides[1:]
    if "steps" not in table:
        fields = _with_stored(name, with_overrides(table, overrides))
        return build_recipe(name, {"steps": {name: {"stage": name, **fields}}})
    recipe = build_recipe(Path(words[0]).stem, with_overrides(table, overrides))
    wanted = [step.name for step in recipe.steps if step.stage_name == name]
    if not wanted:
        raise ConfigError(f"{words[0]} has no step of stage {name}", hint="`lianlu plan` shows the steps of a recipe")
    return recipe.only(wanted)


def _with_stored(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """`@step` of an input means the newest artifact of that name here, since there is no other step. Raises: ArtifactError."""
    from lianlu.core.config import input_fields
    from lianlu.core.store import Store
    from lianlu.stages import STAGES

    def stored(value: Any) -> Any:
        if isinstance(value, list):
            return [stored(each) for each in value]
        return Store.locate().get(value).id if isinstance(value, str) and value.startswith("@") else value

    inputs = input_fields(STAGES[name].config_class())
    return {key: stored(value) if key in inputs else value for key, value in fields.items()}
