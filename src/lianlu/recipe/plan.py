"""What a recipe will do before it does it: run or reuse, with rough time and memory, and the tables that explain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lianlu.core import console
from lianlu.core.config import Config
from lianlu.core.stage import Estimate
from lianlu.core.store import Artifact, Store
from lianlu.recipe.inputs import PendingError, resolve_step
from lianlu.recipe.recipe import Recipe, Step

State = Literal["reuse", "continue", "run"]


@dataclass(frozen=True)
class Planned:
    """One row of the plan. `because` says what the state or the estimate rests on."""

    step: Step
    state: State
    estimate: Estimate | None
    because: str


def plan_recipe(recipe: Recipe, store: Store) -> list[Planned]:
    """Look at every step without running or fetching anything."""
    rows: list[Planned] = []
    done: dict[str, Artifact] = {}
    past = store.list()
    for step in recipe.steps:
        row, artifact = _plan_step(step, store, done, past)
        rows.append(row)
        if artifact:
            done[step.name] = artifact
    store.digests.save()
    return rows


def _plan_step(step: Step, store: Store, done: dict[str, Artifact], past: Sequence[Artifact]) -> tuple[Planned, Artifact | None]:
    try:
        resolved = resolve_step(step, store, done, fetch=False)
    except PendingError as waiting:
        return Planned(step, "run", _estimate(step, past), f"waits for {waiting}"), None
    artifact = store.find(resolved.artifact_id)
    if artifact:
        return Planned(step, "reuse", None, artifact.id), artifact
    estimate = _estimate(step, past, resolved.config)
    if (store.root / "work" / resolved.artifact_id).is_dir():
        return Planned(step, "continue", estimate, "was stopped before it was finished"), None
    return Planned(step, "run", estimate, ""), None


def _estimate(step: Step, past: Sequence[Artifact], resolved: Config | None = None) -> Estimate | None:
    """What this very configuration took before, else the stage's own forecast, from its inputs if they are there."""
    forecast = step.stage.function("estimate")
    estimate: Estimate | None = forecast(resolved or step.config) if forecast else None
    for artifact in reversed(past):
        manifest = artifact.manifest
        if manifest.stage == step.stage_name and manifest.config == step.config.model_dump(mode="json"):
            took = Estimate(manifest.seconds, manifest.peak_memory_bytes, "measured before")
            return replace(took, tables=estimate.tables) if estimate else took
    return estimate


def print_plan(rows: Sequence[Planned]) -> None:
    """Print the plan as a table with totals, and what is known besides about the steps that will run."""
    cells = []
    for row in rows:
        estimate = row.estimate
        time = console.format_seconds(estimate.seconds) if estimate else ""
        memory = console.format_bytes(estimate.memory_bytes) if estimate else ""
        notes = [note for note in (row.because, estimate.basis if estimate else "") if note]
        cells.append([row.step.name, row.step.stage_name, row.state, time, memory, "; ".join(notes)])
    console.table(["step", "stage", "plan", "time", "memory", "because"], cells)
    todo = [row.estimate for row in rows if row.state != "reuse" and row.estimate]
    reused = sum(row.state == "reuse" for row in rows)
    if not todo:
        console.out(f"\nnothing to do: all {reused} steps are there")
        return
    total = console.format_seconds(sum(estimate.seconds for estimate in todo))
    peak = console.format_bytes(max(estimate.memory_bytes for estimate in todo))
    for row in rows:
        if row.state != "reuse" and row.estimate:
            _print_tables(row.step.name, row.estimate)
    console.out(f"\n{len(rows) - reused} steps to run, {reused} to reuse; roughly {total}, at most {peak} of memory")


def _print_tables(name: str, estimate: Estimate) -> None:
    for table in estimate.tables:
        console.out(f"\n{name}: {table.title}")
        console.table(table.columns, table.rows)
