"""Joining the other processes of a launch, and words from the main process to the others between stages.

Gradients travel by gloo (CPU) or NCCL (GPU); on a GPU the group has gloo besides, for checkpoints that are written from a
copy in memory. Between stages there is no such traffic: the main process may work alone for hours, and the others wait for
its word in the key-value store that torchrun keeps, which has no time limit of its own.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from lianlu.core import processes
from lianlu.core.errors import ConfigError

# A process that waits longer than this for the others in the middle of a stage takes them for dead.
TIMEOUT = timedelta(hours=1)
FOREVER = timedelta(days=3650)


def join(device: torch.device) -> None:
    """Form the process group, unless there is one. Raises: ConfigError for too few GPUs, or for what the launcher left out."""
    if dist.is_initialized():
        return
    backend = "gloo"
    if device.type == "cuda":
        _require_gpu(device)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    store = PrefixStore("group", _store())
    dist.init_process_group(backend, store=store, rank=processes.rank(), world_size=processes.num_processes(), timeout=TIMEOUT)
    atexit.register(_leave)


def _require_gpu(device: torch.device) -> None:
    found = torch.cuda.device_count()
    if device.index >= found:
        message = f"process {processes.rank()} is number {device.index + 1} on its machine, which has {found} GPUs"
        raise ConfigError(message, hint=f"start at most {found} processes on it (torchrun --nproc-per-node {found})")


def first_to_fail() -> bool:
    """Whether no other process of this launch has asked before; yes where that cannot be found out."""
    name = str(processes.rank())
    try:
        return PrefixStore("failed", _store()).compare_set("first", "", name).decode() == name
    except (ConfigError, RuntimeError):
        return True


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@cache
def _store() -> Store:
    """The key-value store of this launch."""
    try:
        store, _, _ = next(_rendezvous())
    except ValueError as error:
        hint = "start the processes with torchrun (docs/scale.md), or set the variables as it does"
        raise ConfigError(f"this process cannot find the others: {error}", hint=hint) from error
    store.set_timeout(TIMEOUT)
    return store


def _rendezvous() -> Iterator[tuple[Store, int, int]]:
    found: Iterator[tuple[Store, int, int]] = rendezvous("env://", processes.rank(), processes.num_processes())
    return found


class Word:
    """What the main process says to the others, one thing after another; all of them take the same steps."""

    def __init__(self) -> None:
        self._store = PrefixStore("word", _store())

    def give(self, key: str, said: Any) -> None:
        """Say something (JSON) under a name that is used once."""
        self._store.set(key, json.dumps(said))

    def hear(self, key: str) -> Any:
        """Wait for it, however long it takes."""
        self._store.wait([key], FOREVER)
        return json.loads(self._store.get(key))
