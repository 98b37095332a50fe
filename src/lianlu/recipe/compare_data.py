"""The recipe that compares two ways of making data: small models trained on equal tokens of each, judged on one text.

    A.toml, B.toml          a configuration of the clean stage, or a recipe, of which the steps that make documents are taken
      -> A's documents, B's documents
      -> held-out           documents that both have letter for letter, or a corpus of its own
      -> decontaminate      each side without the held-out documents and what repeats them
      -> tokenizer          one for both, from both
      -> shard, pretrain    of each side, with the same shape, tokens and seeds; judged on the held-out documents

Nothing here trains or cleans: it is a recipe as people write them, so it is planned, resumed, cached and traced as any other.
What `compare_summary` says about it is read from the artifacts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.core.config import Table, input_fields, read_toml, with_overrides
from lianlu.core.errors import ConfigError
from lianlu.recipe.recipe import Recipe, Step, build_recipe

HELD_OUT, TOKENIZER = "compare-held-out", "compare-tokenizer"
JUDGED = "compare-judged"
DATA_STAGES = ("clean", "decontaminate", "enrich", "held-out")
DEFAULTS: dict[str, Table] = {
    "held-out": {},
    # a window that many held-out documents share still is evidence: half of a document has to be found
    "decontaminate": {"max_items": 1_000_000},
    "tokenizer": {"vocab_size": 8192},
    "shard": {},
    "pretrain": {
        "model": {
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
        },
        "batch_tokens": 4096,
        "sequence_length": 512,
        "optim": {"kind": "muon", "lr": 8e-3},
        "schedule": {"kind": "cosine", "final": 0.0},
        "held_out_tokens": 100_000_000,
        "eval_every": 1_000_000,
        "sample_prompts": [],
    },
}
"""What the steps of a comparison are set to: four million weights, judged before and after."""


@dataclass(frozen=True)
class Side:
    """One way of making data: its steps under names of their own, and the references to the documents it ends in."""

    name: str
    file: Path
    steps: dict[str, Table]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A recipe and what stands where in it: the two sides, and how often each is trained."""

    recipe: Recipe
    sides: tuple[Side, Side]
    num_seeds: int

    def runs(self, side: Side) -> list[str]:
        """The names of the training steps of a side, by seed."""
        return [f"{side.name}-pretrain-{seed}" for seed in range(self.num_seeds)]


def comparison(
    files: tuple[Path, Path], tokens: int, num_seeds: int = 3, held_out: str = "", overrides: Sequence[str] = ()
) -> Comparison:
    """The comparison of two files; `overrides` are TOML lines such as pretrain.model.hidden_size=256, by stage.

    `held_out` is the text to judge on; empty: documents that both sides have. Raises: ConfigError for a file that makes no
    documents, or a wrong field.
    """
    if num_seeds < 2:
        raise ConfigError("one seed has no spread", hint="train with two seeds at least; three is usual")
    settings = with_overrides(DEFAULTS, overrides)
    if unknown := sorted(set(settings) - set(DEFAULTS)):
        raise ConfigError(f"{unknown[0]} is no stage of a comparison", hint=f"write STAGE.FIELD=VALUE for {', '.join(DEFAULTS)}")
    first, second = (_side(file, name) for file, name in zip(files, _names(files), strict=True))
    steps: dict[str, Table] = {**first.steps, **second.steps, **_held_out(first, second, held_out, settings["held-out"])}
    for side in (first, second):
        own = {"stage": "decontaminate", "data": list(side.outputs), "items": f"@{HELD_OUT}"}
        steps[f"{side.name}-train"] = {**settings["decontaminate"], **own}
    both = [f"@{side.name}-train" for side in (first, second)]
    steps[TOKENIZER] = {**settings["tokenizer"], "stage": "tokenizer", "data": both}
    for name, data in ((JUDGED, f"@{HELD_OUT}"), (f"{first.name}-shard", both[0]), (f"{second.name}-shard", both[1])):
        steps[name] = {**settings["shard"], "stage": "shard", "data": data, "tokenizer": f"@{TOKENIZER}", "held_out": 0.0}
    for seed in range(num_seeds):
        for side in (first, second):
            run = {"stage": "pretrain", "data": f"@{side.name}-shard", "held_out": f"@{JUDGED}", "tokens": tokens, "seed": seed}
            steps[f"{side.name}-pretrain-{seed}"] = {**settings["pretrain"], **run}
    recipe = build_recipe(f"{first.name} and {second.name}", {"steps": steps})
    return Comparison(recipe, (first, second), num_seeds)


def _held_out(first: Side, second: Side, text: str, settings: Table) -> dict[str, Table]:
    """The steps that make the held-out documents: read as they are, or those that both sides agree on."""
    step = {**settings, "stage": "held-out"}
    if text:
        read = {"stage": "clean", "source": text, "rules": []}
        return {f"{HELD_OUT}-text": read, HELD_OUT: {"share": 1.0, **step, "data": f"@{HELD_OUT}-text"}}
    return {HELD_OUT: {**step, "data": list(first.outputs), "also_in": list(second.outputs)}}


def _names(files: tuple[Path, Path]) -> tuple[str, str]:
    """What the sides are called: as their files, if those tell them apart."""
    first, second = (re.sub(r"\W+", "-", file.stem).strip("-") for file in files)
    return (first, second) if first and second and first != second and "compare" not in (first, second) else ("a", "b")


def _side(file: Path, name: str) -> Side:
    """Read one file. Raises: ConfigError if it makes no documents."""
    table = read_toml(file)
    if "steps" not in table:
        table = {"steps": {"clean": {**table, "stage": "clean"}}}
    recipe = build_recipe(file.stem, table)
    ends = _ends(recipe)
    if not ends:
        raise ConfigError(f"{file} makes no documents", hint="write fields of the clean stage, or a recipe with a clean step")
    kept = recipe.only([end[1:] for end in ends if end.startswith("@")])
    steps = {f"{name}-{step.name}": _renamed(step, table["steps"][step.name], name) for step in kept.steps}
    return Side(name, file, steps, tuple(_reference(end, name) for end in ends))


def _ends(recipe: Recipe) -> list[str]:
    """References to the documents a recipe ends in: what it shards, else what no other step makes documents of."""
    sharded = [
        text for step in recipe.steps if step.stage_name == "shard" for field, text in step.references() if field == "data"
    ]
    if sharded:
        return list(dict.fromkeys(sharded))
    makers = [step for step in recipe.steps if step.stage_name in DATA_STAGES]
    used = {name for step in makers for name in step.needs()}
    return [f"@{step.name}" for step in makers if step.name not in used]


def _renamed(step: Step, table: Table, side: str) -> Table:
    """The table of a step with references to the steps of its side."""
    renamed: Table = {**table, "stage": step.stage_name}
    for field in input_fields(type(step.config)):
        if field in renamed:
            value: Any = renamed[field]
            renamed[field] = [_reference(text, side) for text in value] if isinstance(value, list) else _reference(value, side)
    return renamed


def _reference(text: str, side: str) -> str:
    return f"@{side}-{text[1:]}" if text.startswith("@") else text
