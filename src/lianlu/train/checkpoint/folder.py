"""The folder of a run's states: which are there, which are whole, which are kept.

    .resume/
      step-00000123/      a complete state (storage.py)
      .step-00000456.tmp/ one that is being written or removed, or was when the run was killed
      done.json           the stage has written its results (state.py)
      run.json tokenizer/ what an export needs (describe.py)

A state is written under a hidden name and renamed when all processes have finished and everything is on the disk; it is
renamed back before it is removed. So whatever has a visible name was whole once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from lianlu.core.files import disk_errors, write_text
from lianlu.train.checkpoint.storage import FORMAT, DamagedError, State, StateRecord, damaged
from lianlu.train.config import CheckpointConfig

RECORD = "state.json"


def state_folder(folder: Path, step: int) -> Path:
    """Where the state before `step` lies."""
    return folder / f"step-{step:08d}"


def hidden(state: Path) -> Path:
    """The name under which a state is written or removed."""
    return state.with_name(f".{state.name}.tmp")


def steps(folder: Path) -> list[int]:
    """Steps whose states have a name, oldest first, whole or not."""
    found = [path.name.removeprefix("step-") for path in folder.glob("step-*")]
    return sorted(int(digits) for digits in found if digits.isdecimal())


def read_state(folder: Path, step: int) -> State:
    """The state before `step`; sizes are compared, contents are not. Raises: DamagedError."""
    path = state_folder(folder, step)
    try:
        raw = json.loads((path / RECORD).read_text(encoding="utf-8"))
        if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            message = f"{path} has format {raw['format']}, this lianlu reads up to {FORMAT}"
            raise DamagedError(message, hint="upgrade lianlu to continue this run")
        record = StateRecord.model_validate(raw)
    except (OSError, ValueError, ValidationError) as error:
        raise damaged(path, f"{RECORD}: {type(error).__name__}") from error
    for name, size in record.files.items():
        held = (path / name).stat().st_size if (path / name).is_file() else -1
        if held != size:
            raise damaged(path, f"{name} is missing" if held < 0 else f"{name} has {held} bytes where {size} were written")
    return State(path, record)


def commit(folder: Path, step: int, record: StateRecord) -> None:
    """Give a state its name once all its files are there. Raises: ArtifactError when the disk refuses."""
    final = state_folder(folder, step)
    written = hidden(final)
    with disk_errors(final):
        files = {name: (written / name).stat().st_size for name in record.files}
        write_text(written / RECORD, record.model_copy(update={"files": files}).model_dump_json())
        _sync(written)
        if final.exists():  # a damaged one, or the run would have continued from it
            shutil.rmtree(final)
        written.rename(final)
        _sync(folder)


def remove(state: Path) -> None:
    """Delete a state; one that cannot be deleted is left to the next start."""
    gone = hidden(state)
    with contextlib.suppress(OSError):
        shutil.rmtree(gone, ignore_errors=True)
        state.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed saves and removals left behind."""
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def best(figures: Mapping[int, float | None]) -> int | None:
    """The step with the lowest figure, the earliest of equals; None where there is no figure."""
    judged = [(figure, step) for step, figure in figures.items() if figure is not None and math.isfinite(figure)]
    return min(judged)[1] if judged else None


def kept_on_purpose(figures: Mapping[int, float | None], config: CheckpointConfig) -> set[int]:
    """Steps whose states outlive the run."""
    chosen = {step for step in figures if config.keep_every and step % config.keep_every == 0}
    found = best(figures) if config.keep_best else None
    return chosen if found is None else chosen | {found}


def kept(figures: Mapping[int, float | None], config: CheckpointConfig) -> set[int]:
    """Steps whose states stay while the run goes on."""
    return set(sorted(figures)[-config.keep_last :]) | kept_on_purpose(figures, config)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
