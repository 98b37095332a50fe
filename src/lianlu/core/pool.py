"""One function over many jobs through one verb, wherever they run: in this process, in processes of this machine, or on Ray.

    engine.results(function, jobs)             each job with its result in the order of the jobs, whoever was faster
    in_order(function, jobs, engine, doing)    the same, where a job that is lost stops the run

A job that ends its process (a crash inside a C library, memory that ran out) or takes longer than its limit harms no other: it
is tried again in a new process and then given up, as `Lost`. Only a few jobs are taken ahead of the one that is due.

Processes are spawned, so that threads of the parent do no harm. A worker whose parent is killed ends by itself; left alone it
would wait for work for ever. `ray_pool` has the engine that runs on a cluster, through the same `Worker`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Literal, Protocol, TypeVar

from lianlu.core.errors import DataError

J = TypeVar("J")
R = TypeVar("R")
HELD = 3
"""Jobs a worker that are taken at most before the first of them is yielded."""
ATTEMPTS = 2
"""Times a job is tried that ends its process: the first time memory may have been short."""


@dataclass(frozen=True)
class Lost:
    """There is no result: each time the job was tried its process died, or it took longer than it may."""

    reason: Literal["died", "took too long"]


class Engine(Protocol):
    """Where jobs run. Whatever goes to a worker has to be picklable."""

    def results(
        self, function: Callable[[J], R], jobs: Iterable[J], limit_s: float | None = None
    ) -> Generator[tuple[J, R | Lost]]:
        """Each job with its result, in order; `limit_s` is how long one may take. Raises: what `function` raises."""
        ...

    def alone(self) -> Engine:
        """The same with one job at a time, which then has all memory to itself."""
        ...


def in_order(
    function: Callable[[J], R], jobs: Iterable[J], engine: Engine | int, doing: Callable[[J], str]
) -> Generator[tuple[J, R]]:
    """Each job with its result, in order; `doing` says in an error what a job is about. A number stands for that many processes.

    Raises: DataError if a job is lost, and what `function` raises.
    """
    results = (Pool(engine) if isinstance(engine, int) else engine).results(function, jobs)
    with contextlib.closing(results):
        for job, result in results:
            if isinstance(result, Lost):
                hint = (
                    "most likely memory ran out: run again with fewer workers, or close other programs; what is finished is kept"
                )
                raise DataError(f"a worker {result.reason} while it {doing(job)}", hint=hint)
            yield job, result


@dataclass(frozen=True)
class Here:
    """This process alone; it shares the fate of its jobs, and no limit of time is kept."""

    def results(
        self, function: Callable[[J], R], jobs: Iterable[J], limit_s: float | None = None
    ) -> Generator[tuple[J, R | Lost]]:
        """Each job with its result."""
        for job in jobs:
            yield job, function(job)

    def alone(self) -> Engine:
        """Itself."""
        return self


@dataclass(frozen=True)
class Pool:
    """So many processes of this machine."""

    workers: int

    def results(
        self, function: Callable[[J], R], jobs: Iterable[J], limit_s: float | None = None
    ) -> Generator[tuple[J, R | Lost]]:
        """Each job with its result, in order."""
        crew = _Crew(self.workers)
        waiting: deque[tuple[J, Future[R | Lost]]] = deque()
        try:
            for job in jobs:
                waiting.append((job, crew.submit(function, job, limit_s)))
                if len(waiting) >= HELD * self.workers:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            crew.close()

    def alone(self) -> Engine:
        """One process."""
        return Pool(1)


def _first(waiting: deque[tuple[J, Future[R]]]) -> tuple[J, R]:
    job, future = waiting[0]
    result = future.result()
    waiting.popleft()
    return job, result


class _Crew:
    """Workers, each led by a thread of this process, so that they get new jobs while results are used here."""

    def __init__(self, count: int) -> None:
        self._workers = [Worker() for _ in range(count)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count)

    def submit(self, function: Callable[[J], R], job: J, limit_s: float | None) -> Future[R | Lost]:
        """Have a job done by the next worker that is free."""
        return self._threads.submit(self._done, function, job, limit_s)

    def _done(self, function: Callable[[J], R], job: J, limit_s: float | None) -> R | Lost:
        worker = self._idle.get()
        try:
            reply = worker.call(pickle.dumps((function, job)), limit_s)
        finally:
            self._idle.put(worker)
        return reply if isinstance(reply, Lost) else result_of(reply)

    def close(self) -> None:
        """End all, also those at work."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)


class Worker:
    """A process that does one job after another; when one takes it down, the next gets a new one."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Any = None
        self._closed = False
        self._change = threading.Lock()

    def call(self, work: bytes, limit_s: float | None = None) -> bytes | Lost:
        """The reply to a pickled (function, job), for `result_of`; what takes longer than `limit_s` is not tried again.

        Raises: DataError if no process can be started.
        """
        for _ in range(ATTEMPTS):
            try:
                self._start()
                self._pipe.send_bytes(work)
                self._pipe.recv_bytes()  # imports are done and the job has begun
                if not self._pipe.poll(limit_s):
                    self._end()
                    return Lost("took too long")
                reply: bytes = self._pipe.recv_bytes()
                return reply
            except (EOFError, OSError):
                self._end()
            if self._closed:
                break
        return Lost("died")

    def close(self) -> None:
        """End the process, whatever it does."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        with self._change:
            if self._process is not None:
                return
            if self._closed:
                raise EOFError
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._process = process
        try:
            self._pipe.recv_bytes()  # it is there
        except EOFError:
            if self._closed:
                raise
            hint = "a script that runs a stage needs `if __name__ == '__main__':`; else memory or processes may have run out"
            raise DataError("a worker could not be started", hint=hint) from None

    def _end(self) -> None:
        with self._change:
            if self._process is not None:
                self._process.kill()
                self._process.join()
                self._process.close()
                if not self._closed:
                    self._pipe.close()
            self._process = None


def result_of(reply: bytes) -> Any:
    """What a job returned. Raises: what it raised, with the traceback of the worker as its cause."""
    result, error, told = pickle.loads(reply)
    if error is not None:
        raise error from RuntimeError(told)
    return result


def _serve(pipe: Any) -> None:
    """The worker's end: do jobs until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    os.set_inheritable(pipe.fileno(), False)  # a program that a job started may outlive it and would keep the pipe open
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"here")
        while True:
            pipe.send_bytes(_reply(pipe))


def _reply(pipe: Any) -> bytes:
    """Take a job and do it."""
    work = pipe.recv_bytes()
    try:
        function, job = pickle.loads(work)
    except BaseException as error:
        function, job = _raised, error
    pipe.send_bytes(b"begun")
    try:
        return pickle.dumps((function(job), None, ""))
    except BaseException as error:
        return _pickled(error, traceback.format_exc())


def _raised(error: BaseException) -> None:
    raise error


def _pickled(error: BaseException, told: str) -> bytes:
    try:
        pickle.loads(reply := pickle.dumps((None, error, told)))
        return reply
    except Exception:  # an exception of some library that cannot travel
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), told))


def _leave_with(parent: int) -> None:
    connection.wait([parent])
    os._exit(1)
