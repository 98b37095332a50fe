"""The engine that runs jobs on a Ray cluster, through the same verb as the local one (`pool`); Ray is an extra, `lianlu[ray]`.

    ray start --head                       on one machine, and on each of the others
    ray start --address=HOST:6379

A cluster needs, on every machine: this version of lianlu and of Python, and one file system at the same path for the store
(`LIANLU_HOME`) and for sources that are read from files. Through Ray go jobs, with the text of records whose file one process
reads, and counts as results; scores stay in the files where they are made, and documents are grouped through files. Where no
cluster is given or found, Ray is started on this machine for the time of the run.

A job runs in a process of its own beside the Ray worker (`pool.Worker`), so that one which crashes or hangs is told apart from
a machine that is gone. What was lost with a machine runs again on another. No dashboard is started and nothing is reported to
anybody.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from lianlu.core.errors import ConfigError, DataError
from lianlu.core.pool import HELD, Engine, J, Lost, R, Worker, result_of

RETRIES = 3
"""How often Ray runs a job again whose machine is gone."""
KNOCK_S = 10.0


@dataclass(frozen=True)
class RayPool:
    """The machines of the cluster that this process is connected to; `workers` bounds the jobs at a time, 0: all processors."""

    workers: int = 0

    def results(
        self, function: Callable[[J], R], jobs: Iterable[J], limit_s: float | None = None
    ) -> Generator[tuple[J, R | Lost]]:
        """Each job with its result, in order. Raises: DataError if the cluster goes away."""
        ray = _ray()
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_called)
        waiting: deque[tuple[J, Any]] = deque()
        try:
            for job in jobs:
                waiting.append((job, task.remote(pickle.dumps((function, job)), limit_s)))
                if len(waiting) >= (self.workers or HELD * _num_processors()):
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            for _, reference in waiting:
                with contextlib.suppress(Exception):  # the cluster may be gone
                    ray.cancel(reference, force=True)

    def alone(self) -> Engine:
        """One job at a time."""
        return RayPool(1)


def _num_processors() -> int:
    return max(int(_ray().cluster_resources().get("CPU", 1)), 1)


def _first(waiting: deque[tuple[J, Any]]) -> tuple[J, Any]:
    ray = _ray()
    job, reference = waiting[0]
    try:
        reply = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
        reply = Lost("died")
    except ray.exceptions.RayError as error:
        hint = "look at `ray status`; run again: what is finished is kept"
        raise DataError(f"the Ray cluster failed: {str(error).splitlines()[0]}", hint=hint) from error
    waiting.popleft()
    return job, reply if isinstance(reply, Lost) else result_of(reply)


def _called(work: bytes, limit_s: float | None) -> bytes | Lost:
    """Do a job in the process that belongs to this Ray worker."""
    return _worker().call(work, limit_s)


@cache
def _worker() -> Worker:
    """That process; it ends with this one."""
    return Worker()


def _knock(address: str) -> None:
    """Ray itself asks a machine that does not answer for minutes. Raises: OSError."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), KNOCK_S).close()


def _ray() -> Any:
    """The library, which is an extra."""
    return importlib.import_module("ray")


@contextlib.contextmanager
def cluster(address: str = "", workers: int = 0) -> Iterator[RayPool]:
    """Connect to the cluster at `address` (HOST:PORT; empty: one that runs here, or a new one for this block).

    Raises: ConfigError if Ray is not installed or no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray = _ray()
    except ImportError as error:
        raise ConfigError('engine.kind = "ray" needs the library ray', hint="pip install lianlu[ray]") from error
    try:
        _knock(address)
        ray.init(address or None, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        hint = "start one with `ray start --head`, or leave engine.address empty to run on this machine"
        raise ConfigError(f"no Ray cluster answers at {address or 'this machine'}: {error}", hint=hint) from error
    try:
        yield RayPool(workers)
    finally:
        ray.shutdown()
