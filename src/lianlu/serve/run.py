"""The sequences of one HTTP request on their way through an engine; every one that ends is noted, however it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from lianlu.engine.background import BackgroundEngine, Handle
from lianlu.engine.sequence import Event, Request
from lianlu.serve.failures import ApiError

Note = Callable[[int, Event], None]
"""Told the number of a sequence and its last event."""


def forget(_index: int, _event: Event) -> None:
    """The note of a run that nobody keeps books on."""


class Run:
    """The sequences of one HTTP request, submitted all or none. Raises: RequestError when one is refused.

    `note` is told of the end of each sequence once, also of those that were given up.
    """

    def __init__(self, engine: BackgroundEngine, requests: Sequence[Request], note: Note = forget) -> None:
        self.handles: list[Handle] = []
        self._note = note
        self._open: set[int] = set()
        self._seeing_off: list[asyncio.Task[None]] = []
        try:
            for index, request in enumerate(requests):
                self.handles.append(engine.submit(request))
                self._open.add(index)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Give up what is still running and free its blocks; legal at any time, once nobody reads any more."""
        for index in self._open:
            self.handles[index].cancel()
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            self._seeing_off += [loop.create_task(self._see_off(index)) for index in self._open]
        self._open.clear()

    async def _see_off(self, index: int) -> None:
        self._note(index, await self.handles[index].aresult())

    async def results(self) -> list[Event]:
        """Each sequence's whole news, in order. Raises: the error of the first one that failed."""
        events = await asyncio.gather(*(handle.aresult() for handle in self.handles))
        for index, event in enumerate(events):
            self._ended(index, event)
        return [checked(event) for event in events]

    async def batches(self) -> AsyncIterator[dict[int, Event]]:
        """News as it comes: all that is there at one time, by the number of the sequence."""
        if len(self.handles) == 1:
            async for event in self.handles[0]:
                self._ended(0, event)
                yield {0: checked(event)}
            return
        news: asyncio.Queue[tuple[int, Event | BaseException]] = asyncio.Queue()
        pumps = [asyncio.ensure_future(_pump(index, handle, news.put_nowait)) for index, handle in enumerate(self.handles)]
        num_open = len(pumps)
        try:
            while num_open:
                batch: dict[int, Event] = {}
                self._merge(batch, *(await news.get()))
                while not news.empty():
                    self._merge(batch, *news.get_nowait())
                num_open -= sum(event.finish_reason is not None for event in batch.values())
                yield batch
        finally:
            for pump in pumps:
                pump.cancel()

    def _merge(self, batch: dict[int, Event], index: int, event: Event | BaseException) -> None:
        self._ended(index, event)
        later = checked(event)
        batch[index] = Event.joined([batch[index], later]) if index in batch else later

    def _ended(self, index: int, event: Event | BaseException) -> None:
        if isinstance(event, Event) and event.finish_reason is not None and index in self._open:
            self._open.discard(index)
            self._note(index, event)


async def _pump(index: int, handle: Handle, put: Callable[[tuple[int, Event | BaseException]], None]) -> None:
    try:
        async for event in handle:
            put((index, event))
    except Exception as error:
        put((index, error))


def checked(event: Event | BaseException) -> Event:
    """The event, unless it tells of a failure. Raises: its error; ApiError (503) if the server gave the request up."""
    if isinstance(event, BaseException):
        raise event
    if event.error is not None:
        raise event.error
    if event.finish_reason == "cancelled":
        raise ApiError("the server stopped before the reply was complete", status=503, code="draining")
    return event
