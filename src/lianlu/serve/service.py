"""The model behind a server: its names, its state (loading, ready, draining), and the sequences of each request.

Between `rest`, which knows HTTP, and `engine.background`, which knows neither HTTP nor JSON.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lianlu.core.config import Config
from lianlu.engine.background import BackgroundEngine, Handle
from lianlu.engine.sequence import Event, Request
from lianlu.serve.failures import ApiError

if TYPE_CHECKING:
    from lianlu.tokenizer.tokenizer import Tokenizer


class Limits(Config):
    """What a server lets its clients do."""

    api_key: str | None = None
    """Clients have to send this key; None: everybody may ask."""
    max_body_bytes: int = 16_000_000
    """Longest request body."""


@dataclass
class Service:
    """One served model. `engine` is None while the model is being loaded; `name` "" accepts any model name."""

    name: str
    limits: Limits = field(default_factory=Limits)
    engine: BackgroundEngine | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    stopping: bool = False

    @property
    def state(self) -> str:
        """loading, ready or draining."""
        if self.stopping or (self.engine is not None and self.engine.draining):
            return "draining"
        return "loading" if self.engine is None else "ready"

    def ready(self) -> BackgroundEngine:
        """The engine. Raises: ApiError (503) while the server cannot take requests."""
        if self.state != "ready" or self.engine is None:
            raise ApiError(f"the server is {self.state}", status=503, hint="try again later", code=self.state)
        return self.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the loaded model."""
        return self.ready().engine.tokenizer

    def check_name(self, name: str) -> None:
        """Raises: ApiError (404) if a client asks for another model than the one served here."""
        if name and self.name and name != self.name:
            hint = f"this server has {self.name!r}"
            raise ApiError(f"there is no model {name[:200]!r}", status=404, hint=hint, param="model", code="model_not_found")

    def load(self) -> dict[str, int]:
        """How busy the engine is; nothing while there is none."""
        return {} if self.engine is None else asdict(self.engine.stats())

    def card_fields(self) -> dict[str, Any]:
        """What the list of models says beside OpenAI's fields."""
        engine = self.ready().engine
        precision = str(next(engine.model.parameters()).dtype).removeprefix("torch.")
        return {"context_length": engine.max_len, "max_model_len": engine.max_len, "precision": precision}


class Run:
    """The sequences of one HTTP request, submitted all or none. Raises: RequestError when one is refused."""

    def __init__(self, engine: BackgroundEngine, requests: Sequence[Request]) -> None:
        self.handles: list[Handle] = []
        try:
            for request in requests:
                self.handles.append(engine.submit(request))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Give up what is still running and free its blocks; legal at any time."""
        for handle in self.handles:
            handle.cancel()

    async def results(self) -> list[Event]:
        """Each sequence's whole news, in order. Raises: the error of the first one that failed."""
        return [checked(event) for event in await asyncio.gather(*(handle.aresult() for handle in self.handles))]

    async def batches(self) -> AsyncIterator[dict[int, Event]]:
        """News as it comes: all that is there at one time, by the number of the sequence."""
        if len(self.handles) == 1:
            async for event in self.handles[0]:
                yield {0: checked(event)}
            return
        news: asyncio.Queue[tuple[int, Event | BaseException]] = asyncio.Queue()
        pumps = [asyncio.ensure_future(_pump(index, handle, news.put_nowait)) for index, handle in enumerate(self.handles)]
        num_open = len(pumps)
        try:
            while num_open:
                batch: dict[int, Event] = {}
                _merge(batch, *(await news.get()))
                while not news.empty():
                    _merge(batch, *news.get_nowait())
                num_open -= sum(event.finish_reason is not None for event in batch.values())
                yield batch
        finally:
            for pump in pumps:
                pump.cancel()


def _merge(batch: dict[int, Event], index: int, event: Event | BaseException) -> None:
    later = checked(event)
    batch[index] = Event.joined([batch[index], later]) if index in batch else later


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
