"""A recipe: the steps of one TOML file as a directed acyclic graph.

    [steps.sft]
    stage = "sft"                      # may be left out where the step is named like its stage
    model = "smollm2-135m-instruct"
    data = "@chat-data"                # the output of the step named so

Every other key belongs to the Config of the stage. A recipe is complete in one file; overrides on the command line are
TOML lines (`steps.clean.source=docs/`) merged before the one validation.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianlu.core.config import Config, Table, input_fields, read_toml, validate, with_overrides
from lianlu.core.errors import ConfigError
from lianlu.core.stage import Stage
from lianlu.stages import STAGES


@dataclass(frozen=True)
class Step:
    """One step: its name, its stage, and its validated configuration (references not yet resolved)."""

    name: str
    stage_name: str
    stage: Stage
    config: Config

    @property
    def kind(self) -> str:
        """Kind of artifact the step makes; a config may decide it (`artifact_kind`), as sft does by `tune.kind`."""
        return str(getattr(self.config, "artifact_kind", self.stage.kind))

    def references(self) -> Iterator[tuple[str, str]]:
        """(field, text) of every input the step names."""
        for field in input_fields(type(self.config)):
            value = getattr(self.config, field)
            for text in value if isinstance(value, list | tuple) else [value]:
                if text:
                    yield field, text

    def needs(self) -> list[str]:
        """Names of the steps whose outputs this one reads."""
        return list(dict.fromkeys(text[1:] for _, text in self.references() if text.startswith("@")))


@dataclass(frozen=True)
class Recipe:
    """Steps in an order in which every input comes before its reader."""

    name: str
    steps: tuple[Step, ...]

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe cut down to these steps and what they need. Raises: ConfigError for an unknown step."""
        by_name = {step.name: step for step in self.steps}
        wanted: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in by_name:
                raise _unknown("step", name, list(by_name))
            if name not in wanted:
                wanted.add(name)
                todo.extend(by_name[name].needs())
        return Recipe(self.name, tuple(step for step in self.steps if step.name in wanted))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file. Raises: ConfigError."""
    return build_recipe(path.stem, with_overrides(read_toml(path), overrides))


def build_recipe(name: str, table: Mapping[str, Any]) -> Recipe:
    """Check a recipe table and put its steps in order. Raises: ConfigError."""
    if unknown := sorted(set(table) - {"steps"}):
        raise _unknown("key", unknown[0], ["steps"])
    steps = table.get("steps")
    if not isinstance(steps, Mapping) or not steps:
        raise ConfigError(f"the recipe {name} has no steps", hint="write [steps.NAME] tables; recipes/tiny.toml is an example")
    built = {step: _build_step(step, body) for step, body in steps.items()}
    for step in built.values():
        for needed in step.needs():
            if needed not in built:
                raise _unknown(f"step named by steps.{step.name}", needed, list(built))
        _check_kinds(step, built)
    return Recipe(name, tuple(built[step] for step in _in_order(built)))


def _build_step(name: str, body: Any) -> Step:
    if not isinstance(body, Mapping):
        raise ConfigError(f"steps.{name} is not a table", hint=f"write [steps.{name}] and its fields below")
    fields: Table = dict(body)
    stage_name = fields.pop("stage", name)
    if stage_name not in STAGES:
        raise _unknown(f"stage of steps.{name}", str(stage_name), list(STAGES))
    stage = STAGES[stage_name]
    return Step(name, stage_name, stage, validate(stage.config_class(), fields, where=f"steps.{name}"))


def _check_kinds(step: Step, built: Mapping[str, Step]) -> None:
    marks = input_fields(type(step.config))
    for field, text in step.references():
        if text.startswith("@") and marks[field].kinds:
            kind = built[text[1:]].kind
            if kind not in marks[field].kinds:
                raise ConfigError(
                    f"steps.{step.name}.{field} = {text!r} is a {kind}", hint=f"it takes: {', '.join(marks[field].kinds)}"
                )


def _in_order(built: Mapping[str, Step]) -> list[str]:
    """Depth-first order, stable in the order of the file. Raises: ConfigError that names a cycle."""
    order: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in path:
            cycle = " -> ".join([*path[path.index(name) :], name])
            raise ConfigError(f"the steps form a cycle: {cycle}", hint="a step can only read what comes before it")
        path.append(name)
        for needed in built[name].needs():
            visit(needed)
        path.pop()
        order.append(name)

    for name in built:
        visit(name)
    return order


def _unknown(what: str, name: str, known: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"unknown {what}: {name}" + (f"; did you mean {near[0]}?" if near else ""), hint=f"known: {', '.join(known)}"
    )
