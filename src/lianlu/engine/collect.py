"""From handles to results: a bounded number of requests on their way, and one reply piece by piece.

Between `background`, which hands out handles, and those who ask: `local.LocalClient` and `llm.LLM`. Whoever leaves early, be it
by an exception, Ctrl-C or a loop that breaks off, cancels what has not ended, so that nothing is computed for nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from itertools import islice

from lianlu.core.errors import EngineError
from lianlu.engine.background import BackgroundEngine, Handle
from lianlu.engine.sequence import Event, Request

IN_FLIGHT = 256


def in_flight(engine: BackgroundEngine, requests: Iterable[Request]) -> Generator[Handle, None, None]:
    """The handles of the requests in order, a window of them under way; ask for the next one when this one has ended.

    Closing the generator cancels what is under way. Raises: RequestError for a request that is refused.
    """
    config = engine.engine.config
    source = iter(requests)
    window: deque[Handle] = deque()
    try:
        window.extend(map(engine.submit, islice(source, min(IN_FLIGHT, config.max_running + config.max_queued))))
        while window:
            yield window[0]
            window.popleft()
            window.extend(map(engine.submit, islice(source, 1)))
    finally:
        for handle in window:
            handle.cancel()


def checked(event: Event) -> Event:
    """The event. Raises: the error of a request that failed; EngineError for one that was given up."""
    if event.error is not None:
        raise event.error
    if event.finish_reason == "cancelled":
        raise EngineError("the engine was closed before the reply was complete", hint="open the model again")
    return event


class Pieces:
    """One reply as pieces of text, for threads (`for`) or asyncio (`async for`); `event` is all of it once it has ended.

    `visible` says how much of an unfinished text may be shown (a tool call that begins may not), `content` what the
    finished text shows in the end.
    """

    def __init__(self, handle: Handle, visible: Callable[[str], str], content: Callable[[str], str]) -> None:
        self._handle, self._visible, self._content = handle, visible, content
        self._seen: list[Event] = []
        self._text = self._shown = ""

    @property
    def event(self) -> Event:
        """What has come so far as one event."""
        return Event.joined(self._seen or [Event(-1)])

    def close(self) -> None:
        """Cancel the request; legal at any time and more than once."""
        self._handle.cancel()

    def __iter__(self) -> Iterator[str]:
        try:
            for event in self._handle:
                if piece := self._take(event):
                    yield piece
        finally:
            self._handle.cancel()

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            async for event in self._handle:
                if piece := self._take(event):
                    yield piece
        finally:
            self._handle.cancel()

    def _take(self, event: Event) -> str:
        """The text that an event brings to light. Raises: as `checked`."""
        self._seen.append(checked(event))
        self._text += event.text
        known = self._visible(self._text) if event.finish_reason is None else self._content(self._text)
        piece = known[len(self._shown) :] if known.startswith(self._shown) else ""
        self._shown += piece
        return piece
