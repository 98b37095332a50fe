"""Running a recipe in several processes: torchrun starts the same command in each of them.

The main process does what one process alone does: it finds what is there, fetches, hashes, locks, makes and publishes. The
others wait for its word, step by step. Where a stage is made for several processes (`Stage.distributed`), the word is the
stage's config and working folder, all enter it, and the artifact is published when all have left it; of any step the others
are told when it is done. They need the same files as the main one: on several machines the store and the inputs lie on a disk
that all of them see.

A process that fails ends with its message, and torchrun ends the others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from lianlu.core import machine, processes
from lianlu.core.config import Config, canonical
from lianlu.core.errors import ArtifactError
from lianlu.core.store import Artifact, Output, Store
from lianlu.recipe.recipe import Recipe, Step
from lianlu.recipe.run import Ran, run_step
from lianlu.train.parallel.launch import Word

# how long a network disk may take to show one machine what another has written
VISIBLE_S = 60.0


def run_together(recipe: Recipe, store: Store) -> list[Ran]:
    """Run the recipe as one of several processes; all return the same artifacts."""
    word = Word()
    if not processes.is_main():
        return [_follow(word, str(number), step, store) for number, step in enumerate(recipe.steps, 1)]
    results: list[Ran] = []
    done: dict[str, Artifact] = {}
    for number, step in enumerate(recipe.steps, 1):
        result = _lead(word, str(number), step, store, done, f"[{number}/{len(recipe.steps)}]")
        results.append(result)
        done[step.name] = result.artifact
    return results


def _lead(word: Word, key: str, step: Step, store: Store, done: dict[str, Artifact], label: str) -> Ran:
    @contextlib.contextmanager
    def together(config: Config, folder: Path) -> Iterator[None]:
        word.give(f"{key}/begin", {"config": canonical(config), "folder": str(folder)})
        yield
        for rank in range(1, processes.num_processes()):
            word.hear(f"{key}/left/{rank}")

    result = run_step(step, store, done, label, together if step.stage.distributed else None)
    if not (result.made and step.stage.distributed):
        word.give(f"{key}/begin", None)
    word.give(f"{key}/end", {"id": result.artifact.id, "made": result.made})
    return result


def _follow(word: Word, key: str, step: Step, store: Store) -> Ran:
    begin = word.hear(f"{key}/begin")
    if begin is not None:
        machine.release_memory()
        config = step.stage.config_class().model_validate(begin["config"])
        step.stage.function("run")(config, Output(Path(begin["folder"])))
        word.give(f"{key}/left/{processes.rank()}", True)
    end = word.hear(f"{key}/end")
    return Ran(step, _found(store, end["id"]), end["made"])


def _found(store: Store, artifact_id: str) -> Artifact:
    until = time.monotonic() + VISIBLE_S
    while (artifact := store.find(artifact_id)) is None:
        if time.monotonic() > until:
            raise ArtifactError(
                f"the main process has made {artifact_id}, but it is not in {store.root} on this machine",
                hint="let LIANLU_HOME be on a disk that all machines share",
            )
        time.sleep(0.2)
    return artifact
