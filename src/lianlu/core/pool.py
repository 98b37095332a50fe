"""One function over many jobs in a pool of processes: results in the order of the jobs, whoever was faster.

Processes are spawned, so that threads of the parent do no harm. A worker whose parent is killed ends by itself; left alone it
would wait for work for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

from lianlu.core.errors import DataError

J = TypeVar("J")
R = TypeVar("R")
HELD = 3
"""Jobs a worker that are taken at most before the first of them is yielded."""


def in_order(
    function: Callable[[J], R],
    jobs: Iterable[J],
    workers: int,
    doing: Callable[[J], str],
    begin: Callable[[], None] | None = None,
) -> Generator[tuple[J, R]]:
    """Each job with its result. `begin` is called once in every worker; `doing` says in an error what a job is about.

    Whatever goes to a worker has to be picklable. Raises: DataError if a worker dies, and what `function` raises.
    """
    waiting: deque[tuple[J, Future[R]]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(begin,)) as pool:
        try:
            for job in jobs:
                waiting.append((job, pool.submit(function, job)))
                if len(waiting) >= HELD * workers:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        except BrokenProcessPool as error:
            hint = "most likely memory ran out: run again with fewer workers, or close other programs; what is finished is kept"
            raise DataError(f"a worker died while it {doing(waiting[0][0])}, or what follows", hint=hint) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _first(waiting: deque[tuple[J, Future[R]]]) -> tuple[J, R]:
    job, future = waiting[0]
    result = future.result()
    waiting.popleft()
    return job, result


def _begin(begin: Callable[[], None] | None) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()
    if begin is not None:
        begin()


def _leave_with(parent: int) -> None:
    connection.wait([parent])
    os._exit(1)
