"""An engine with a thread of its own: submit from asyncio or from any thread, read events as they come.

The engine thread never waits for a reader: what a `Handle` has not handed over yet comes as one event when it is asked
for, so that what a slow reader holds up is bounded by its own reply. Cancelling takes effect before the next step. An
exception in a step fails the requests that were running and waiting, and the thread goes on. An idle engine sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from lianlu.core.errors import EngineError, RequestError
from lianlu.engine.engine import Engine, Stats
from lianlu.engine.sequence import Event, Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wake:
    """How a waiting reader is woken: by `go`, called in its event loop if it has one."""

    go: Callable[[], object]
    loop: asyncio.AbstractEventLoop | None = None


def wake_all(wakes: Iterable[Wake]) -> None:
    """Wake readers; those of one event loop by one call, because each call to another thread's loop costs a system call."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], object]]] = {}
    for wake in wakes:
        if wake.loop is None:
            wake.go()
        else:
            by_loop.setdefault(wake.loop, []).append(wake.go)
    for loop, calls in by_loop.items():
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_each, calls)


def _each(calls: Iterable[Callable[[], object]]) -> None:
    for call in calls:
        call()


class Handle:
    """One submitted request: `async for event in handle` (asyncio) or `for event in handle` (threads); one reader.

    Iteration ends after the event that has a `finish_reason`. Leaving early does not cancel: call `cancel`.
    """

    def __init__(self, request: Request, cancel: Callable[[Handle], None]) -> None:
        self.request = request
        self._cancel = cancel
        self._lock = threading.Lock()
        self._unread: list[Event] = []
        self._wake: Wake | None = None
        self._only_at_end = False

    def cancel(self) -> None:
        """End the request before the next step; legal at any time and more than once, from any thread."""
        self._cancel(self)

    def __iter__(self) -> Iterator[Event]:
        done = False
        while not done:
            event = self._wait()
            yield event
            done = event.finish_reason is not None

    async def __aiter__(self) -> AsyncIterator[Event]:
        done = False
        while not done:
            event = await self._await()
            yield event
            done = event.finish_reason is not None

    def result(self) -> Event:
        """Wait (blocking) for the end; all events as one. An `error` is in the event, not raised."""
        return self._wait(at_end=True)

    async def aresult(self) -> Event:
        """`result` for asyncio."""
        return await self._await(at_end=True)

    def put(self, event: Event) -> Wake | None:
        """Hand over an event; who is to be woken now, if anybody. Called by the engine thread."""
        with self._lock:
            self._unread.append(event)
            if self._only_at_end and event.finish_reason is None:
                return None
            wake, self._wake = self._wake, None
            return wake

    def _wait(self, at_end: bool = False) -> Event:
        arrived = threading.Event()
        while (event := self._take(Wake(arrived.set), at_end)) is None:
            arrived.wait()
            arrived.clear()
        return event

    async def _await(self, at_end: bool = False) -> Event:
        arrived = asyncio.Event()
        wake = Wake(arrived.set, asyncio.get_running_loop())
        while (event := self._take(wake, at_end)) is None:
            await arrived.wait()
            arrived.clear()
        return event

    def _take(self, wake: Wake, at_end: bool) -> Event | None:
        """What is unread as one event; if that is nothing (or not yet the end), None, and `wake` is used when there is."""
        with self._lock:
            if self._unread and (not at_end or self._unread[-1].finish_reason is not None):
                unread, self._unread = self._unread, []
                return Event.joined(unread)
            self._wake, self._only_at_end = wake, at_end
            return None


class BackgroundEngine:
    """Owns the engine and the only thread that touches it."""

    def __init__(self, engine: Engine) -> None:
        """Start the (daemon) thread."""
        self.engine = engine
        self._changed = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._handles: dict[int, Handle] = {}
        self._ids: dict[Handle, int] = {}
        self._num_open = self._posted_tokens = 0
        self._max_open = engine.config.max_running + engine.config.max_queued
        self._draining = False
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="lianlu-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Handle:
        """Hand in a request. Raises: RequestError (400: not possible, 429: too many wait, 503: draining or closed)."""
        self.engine.check(request)
        handle = Handle(request, self._ask_cancel)
        self.engine.admit(request, self._posted_tokens)
        with self._changed:
            if self._draining:
                raise RequestError("the engine takes no new requests, it is stopping", hint="try again later", status=503)
            if self._num_open >= self._max_open:
                raise self.engine.admission.full(self._num_open)
            self._num_open += 1
            self._posted_tokens += len(request.prompt)
            self._post(lambda: self._begin(handle))
        return handle

    def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the engine thread between two steps and wait for its result (scoring shares the model so).

        Of several jobs one runs between two steps, so that requests go on. Raises: what the job raises; RequestError (429) if
        too many wait; EngineError if the engine is closed.
        """
        return self._calling(job).result()

    async def acall(self, job: Callable[[], T]) -> T:
        """`call` for asyncio; a job that is cancelled before its turn does not run."""
        return await asyncio.wrap_future(self._calling(job))

    def _calling(self, job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        with self._changed:
            if self._closing:
                raise EngineError("the engine is closed", hint="open the model again")
            if len(self._calls) >= self._max_open:
                raise RequestError(f"{len(self._calls)} jobs are waiting", hint="try again later", status=429)
            self._calls.append(run)
            self._changed.notify_all()
        return future

    def stats(self) -> Stats:
        """The engine's counters."""
        return self.engine.stats()

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def drain(self, timeout_s: float = 30.0) -> bool:
        """Refuse new requests, let the running ones finish, cancel what is left after `timeout_s`; True if none had to be."""
        end = time.monotonic() + timeout_s
        with self._changed:
            self._draining = True
            finished = self._changed.wait_for(lambda: self._num_open == 0, max(end - time.monotonic(), 0))
            if not finished and self._thread.is_alive():
                self._post(self._cancel_all)
                self._changed.wait_for(lambda: self._num_open == 0)
        return finished

    def close(self) -> None:
        """Cancel everything, end the thread and free the memory; legal more than once."""
        self.drain(0)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.engine.close()

    def _post(self, task: Callable[[], None]) -> None:
        self._inbox.append(task)
        self._changed.notify_all()

    def _main(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._inbox or self._calls or self._closing or not self.engine.idle)
                tasks, self._inbox = self._inbox, []
                if self._calls:
                    tasks.append(self._calls.popleft())
            for task in tasks:
                task()
            if self._closing and not self._inbox and not self._calls:
                return
            if not self.engine.idle:
                self._step()

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except Exception as error:
            events = self.engine.reset(error)
        self._tell(events)

    def _tell(self, events: Iterable[Event]) -> None:
        """Pass events on to their handles, then wake those who wait for them."""
        wakes = [self._pass_on(event) for event in events]
        wake_all(wake for wake in wakes if wake is not None)

    def _pass_on(self, event: Event) -> Wake | None:
        """Put an event into its handle, and forget the handle with the last one."""
        handle = self._handles[event.request_id]
        if event.finish_reason is not None:
            del self._handles[event.request_id], self._ids[handle]
            self._close_one()
        return handle.put(event)

    def _close_one(self) -> None:
        with self._changed:
            self._num_open -= 1
            if self._num_open == 0:
                self._changed.notify_all()

    def _begin(self, handle: Handle) -> None:
        with self._changed:
            self._posted_tokens -= len(handle.request.prompt)
        try:
            number = self.engine.submit(handle.request)
        except Exception as error:
            failure = error if isinstance(error, RequestError | EngineError) else EngineError(f"{type(error).__name__}: {error}")
            self._close_one()
            wake = handle.put(Event(-1, finish_reason="error", error=failure))
            wake_all([wake] if wake else [])
            return
        self._handles[number], self._ids[handle] = handle, number

    def _ask_cancel(self, handle: Handle) -> None:
        with self._changed:
            self._post(lambda: self._end(handle))

    def _end(self, handle: Handle) -> None:
        number = self._ids.get(handle)
        event = None if number is None else self.engine.cancel(number)
        if event is not None:
            self._tell([event])

    def _cancel_all(self) -> None:
        for handle in list(self._ids):
            self._end(handle)
