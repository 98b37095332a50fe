"""Running a recipe: step after step, each one made once, found again, or continued where it was killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lianlu
from lianlu.core import console, machine, processes
from lianlu.core.config import Config, canonical
from lianlu.core.files import full_disk_errors
from lianlu.core.store import Artifact, Output, Store, now
from lianlu.recipe.inputs import Resolved, resolve_step
from lianlu.recipe.recipe import Recipe, Step

# what a stage runs within, given its config and the folder it works in
Around = Callable[[Config, Path], AbstractContextManager[None]]


@dataclass(frozen=True)
class Ran:
    """The result of one step: its artifact, and whether it was made now or found."""

    step: Step
    artifact: Artifact
    made: bool


def run_recipe(recipe: Recipe, store: Store) -> list[Ran]:
    """Run what has to be run, in order; everything else is reused.

    Of several processes (torchrun) the main one does it all, and the others join it in the stages that are made for several.
    """
    if processes.num_processes() > 1:
        from lianlu.recipe.together import run_together

        return run_together(recipe, store)
    results: list[Ran] = []
    done: dict[str, Artifact] = {}
    for number, step in enumerate(recipe.steps, 1):
        result = run_step(step, store, done, f"[{number}/{len(recipe.steps)}]")
        results.append(result)
        done[step.name] = result.artifact
    return results


def run_step(step: Step, store: Store, done: dict[str, Artifact], label: str = "", around: Around | None = None) -> Ran:
    """Make the artifact of one step, unless it is there. Only one process at a time makes a given artifact.

    `around` is entered before the stage runs and left before its artifact is published.
    """
    resolved = resolve_step(step, store, done, fetch=True)
    store.digests.save()

    def on_wait() -> None:
        console.info(f"{label} {step.name}: another process is making {resolved.artifact_id}; waiting for it")

    with store.lock(resolved.artifact_id, on_wait):
        artifact = store.find(resolved.artifact_id)
        made = artifact is None
        if artifact is None:
            console.info(f"{label} {step.name}")
            artifact = _make(step, resolved, store, around)
            console.info(f"      {_summary(artifact)}")
    store.set_name(step.name, artifact.id)
    return Ran(step, artifact, made)


def _make(step: Step, resolved: Resolved, store: Store, around: Around | None) -> Artifact:
    out = Output(store.work(resolved.artifact_id, step.name))
    started, began = now(), time.monotonic()
    machine.release_memory()
    machine.reset_peak_memory()
    with full_disk_errors(out.path), nullcontext() if around is None else around(resolved.config, out.path):
        step.stage.function("run")(resolved.config, out)
    draft: dict[str, Any] = {
        "id": resolved.artifact_id,
        "kind": step.kind,
        "stage": step.stage_name,
        "stage_version": step.stage.version,
        "step": step.name,
        "key": resolved.key,
        "config": canonical(step.config),
        "inputs": resolved.inputs,
        "lianlu": lianlu.__version__,
        "git": machine.git_commit(Path.cwd()),
        "device": machine.describe_device(),
        "started": started,
        "seconds": round(time.monotonic() - began, 3),
        "peak_memory_bytes": machine.peak_memory_bytes(),
    }
    return store.publish(out, draft)


def _summary(artifact: Artifact) -> str:
    manifest = artifact.manifest
    figures = [f"{name} {console.format_value(value)}" for name, value in manifest.figures.items() if not isinstance(value, dict)]
    return "  ".join([console.format_seconds(manifest.seconds), *figures[:6]])
