"""An engine with a thread of its own: submit from asyncio or from any thread, read events as they come.

The engine thread never waits for a reader: a `Handle` keeps at most one unread event, into which later ones are merged,
so that what a slow reader holds up is bounded by its own reply. Cancelling takes effect before the next step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from lianlu.engine.engine import Engine, Stats
from lianlu.engine.sequence import Event, Request

T = TypeVar("T")


class Handle:
    """One submitted request: `async for event in handle` (asyncio) or `for event in handle` (threads); one reader.

    Iteration ends after the event that has a `finish_reason`. Leaving early does not cancel: call `cancel`.
    """

    request: Request

    def __aiter__(self) -> AsyncIterator[Event]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Event]:
        raise NotImplementedError

    def cancel(self) -> None:
        """End the request before the next step; legal at any time and more than once, from any thread."""

    def result(self) -> Event:
        """Wait (blocking) for the end; all events as one. An `error` is in the event, not raised."""
        raise NotImplementedError

    async def aresult(self) -> Event:
        """`result` for asyncio."""
        raise NotImplementedError


class BackgroundEngine:
    """Owns the engine and the only thread that touches it."""

    engine: Engine

    def __init__(self, engine: Engine) -> None:
        """Start the (daemon) thread."""

    def submit(self, request: Request) -> Handle:
        """Hand in a request. Raises: RequestError (400: not possible, 429: too many wait, 503: draining or closed)."""
        raise NotImplementedError

    def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the engine thread between two steps and wait for its result (scoring shares the model so)."""
        raise NotImplementedError

    def stats(self) -> Stats:
        """The engine's counters."""
        raise NotImplementedError

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        raise NotImplementedError

    def drain(self, timeout_s: float = 30.0) -> bool:
        """Refuse new requests, let the running ones finish, cancel what is left after `timeout_s`; True if none had to be."""
        raise NotImplementedError

    def close(self) -> None:
        """Cancel everything, end the thread and free the memory; legal more than once."""
