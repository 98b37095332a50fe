"""The state of a training run, so that a killed run continues to the very bits an unbroken one would have reached.

Trainable parameters (`model.NAME`) and every tensor that the optimiser holds for them (`optimizer.KEY.NAME`), as blocks of
safetensors files planned by torch.distributed.checkpoint, and a record with the next step and how long each log was.
Nothing else is state: the order of the data, the learning rate, dropout and samples are functions of seed and step. Logs
grow between states; a resumed run cuts them back to the recorded length.

Shapes on disk are canonical, whatever the layout of the run: a gate_up of (2F, D) in one process is stored as (2, F, D),
which is how processes that divide it hold it, and whatever the optimiser keeps for its rows likewise.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from lianlu.core.errors import ArtifactError
from lianlu.core.files import write_json
from lianlu.train.checkpoint.describe import forget_run
from lianlu.train.checkpoint.folder import kept_on_purpose, read_state, remove, state_folder, steps, sweep
from lianlu.train.checkpoint.storage import DamagedError, State, StateReader, StateWriter
from lianlu.train.config import CheckpointConfig
from lianlu.train.optim.build import init_state

DONE = "done.json"
PAIRED = ".gate_up.weight"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that is state, by its name on disk and in its shape on disk; the memory is that of the run."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainable(model).items():
        held = {"model": parameter.detach()}
        held.update({f"optimizer.{key}": value for key, value in optimizer.state.get(parameter, {}).items()})
        for kind, value in held.items():
            tensors[f"{kind}.{name}"] = _canonical(name, value, parameter.shape)
    return tensors


def _canonical(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Gate and up as two matrices, and likewise what an optimiser holds for each of their rows or blocks of rows."""
    if isinstance(value, DTensor) or not name.endswith(PAIRED):
        return value
    if len(shape) == 2 and value.ndim and value.shape[0] == shape[0]:
        return value.view(2, -1, *value.shape[1:])
    return value


def plan_state(writer: StateWriter, model: nn.Module, optimizer: torch.optim.Optimizer, group: Any) -> None:
    """Let the processes of `group` (None: this one alone) agree on who writes what; the writer holds its share afterwards."""
    planner = DefaultSavePlanner(flatten_state_dict=False)
    try:
        with _alone():
            tensors = state_tensors(model, optimizer)
            save(tensors, storage_writer=writer, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _first(error) from error


def load_state(state: State, model: nn.Module, optimizer: torch.optim.Optimizer, group: Any = None) -> None:
    """Make parameters and optimiser what `state` says, however many processes wrote it and in whatever layout.

    Raises: DamagedError if its files cannot be read; ArtifactError if it belongs to another model.
    """
    init_state(optimizer)
    _forget_unsaved(state, model, optimizer)
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    tensors = state_tensors(model, optimizer)
    try:
        with _alone():
            reader = StateReader(state)
            load(tensors, storage_reader=reader, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        cause = _first(error)
        if isinstance(cause, RuntimeError | ValueError):  # DCP's for a name or a shape that is not there
            message = f"{state.folder} cannot continue this run: {cause}"
            raise ArtifactError(message, hint=f"remove {state.folder.parent} to start the step anew") from error
        raise cause from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """DCP warns that one process alone saves by itself; that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _first(error: CheckpointException) -> BaseException:
    return next(iter(error.failures.values()))[0]


def _forget_unsaved(state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A parameter that had no optimiser state when it was written has none now (its steps were all left out)."""
    saved = {name.split(".", 2)[2] for name in state.record.tensors if name.startswith("optimizer.")}
    for name, parameter in trainable(model).items():
        if name not in saved:
            optimizer.state.pop(parameter, None)


def finish(folder: Path, figures: Mapping[str, Any]) -> None:
    """Say that the stage has written all its results, and drop its states but those that were kept on purpose.

    A run killed after this has nothing left to do.
    """
    write_json(folder / DONE, dict(figures))
    _drop_states(folder)


def finished(folder: Path) -> dict[str, Any] | None:
    """The figures that `finish` recorded, or None while there is still work; completes a `finish` that was killed."""
    try:
        figures: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    _drop_states(folder)
    return figures


def _drop_states(folder: Path) -> None:
    """Leave what keep_every and keep_best asked for; without such a wish nothing is left of the states."""
    sweep(folder)
    whole: dict[int, State] = {}
    for step in steps(folder):
        with contextlib.suppress(DamagedError):
            whole[step] = read_state(folder, step)
    figures = {step: state.record.figure for step, state in whole.items()}
    wish = CheckpointConfig.model_validate(whole[max(whole)].record.keep) if whole else CheckpointConfig()
    kept = kept_on_purpose(figures, wish)
    for step in set(steps(folder)) - kept:
        remove(state_folder(folder, step))
    if not kept:
        forget_run(folder)
