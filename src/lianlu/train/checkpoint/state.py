"""The state of a training run, so that a killed run continues to the very bits an unbroken one would have reached.

One safetensors file, replaced atomically: trainable weights, optimiser state, and in its metadata the next step and how
long each log was. Nothing else is state: the order of the data, the learning rate, dropout and samples are functions of
seed and step. Logs grow between checkpoints; a resumed run cuts them back to the recorded length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lianlu.core.errors import ArtifactError
from lianlu.core.files import disk_errors, write_json

FORMAT = 1
FILE = "state.safetensors"
DONE = "done.json"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, logs: Sequence[Path]) -> None:
    """Replace the state in `folder`: `step` is the next one to do, `logs` are the files that grow with the run."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainable(model).items():
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    lengths = {path.name: path.stat().st_size if path.exists() else 0 for path in logs}
    metadata = {"lianlu": json.dumps({"format": FORMAT, "step": step, "logs": lengths}, sort_keys=True)}
    final = folder / FILE
    temporary = folder / f".{FILE}.{os.getpid()}.tmp"
    try:
        with disk_errors(final):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata=metadata)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, final)
    except SafetensorError as error:
        raise ArtifactError(f"cannot write {final}: {error}", hint="free some disk space and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def restore_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, logs: Sequence[Path]) -> int:
    """Load the state in `folder` and cut the logs back to it; returns the next step, 0 (and no logs) if there is none.

    Raises: ArtifactError if the state belongs to another model or is damaged.
    """
    path = folder / FILE
    for leftover in folder.glob(f".{FILE}.*.tmp"):
        leftover.unlink(missing_ok=True)
    if not path.exists():
        for log in logs:
            log.unlink(missing_ok=True)
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["lianlu"])
            names = list(file.keys())
            _copy_tensors({name: file.get_tensor(name) for name in names}, model, optimizer)
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        message = f"{path} cannot continue this run: {error}"
        raise ArtifactError(message, hint=f"remove {folder} to start the step anew") from error
    for log in logs:
        _cut(log, int(state["logs"].get(log.name, 0)))
    return int(state["step"])


@torch.no_grad()
def _copy_tensors(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = trainable(model)
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"model.{name}"])
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            key, _, owner = rest.partition(".")
            optimizer.state[parameters[owner]][key] = value.clone()


def _cut(log: Path, length: int) -> None:
    """Shorten a log to `length` bytes; one that is shorter than that has been tampered with and is left as it is."""
    if log.exists() and log.stat().st_size > length:
        with disk_errors(log):
            os.truncate(log, length)


def finish(folder: Path, figures: Mapping[str, Any]) -> None:
    """Say that the stage has written all its results, and drop the state; a run killed after this has nothing left to do."""
    write_json(folder / DONE, dict(figures))
    (folder / FILE).unlink(missing_ok=True)


def finished(folder: Path) -> dict[str, Any] | None:
    """The figures that `finish` recorded, or None while there is still work."""
    try:
        figures: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures
