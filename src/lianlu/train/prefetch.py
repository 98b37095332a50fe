"""The batches of the next step, made while this one is computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """`make(step)` for one step after another, always one ahead; use it in a `with` block."""

    def __init__(self, make: Callable[[int], T], last: int) -> None:
        self._make, self._last = make, last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[T]] | None = None

    def take(self, step: int) -> tuple[T, float]:
        """What belongs to `step`, and the seconds it was waited for."""
        started = time.monotonic()
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = (step, self._pool.submit(self._make, step))
        made = self._ahead[1].result()
        waited = time.monotonic() - started
        self._ahead = (step + 1, self._pool.submit(self._make, step + 1)) if step + 1 < self._last else None
        return made, waited

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
