"""A served model without a model: a tokenizer of characters and an engine that says what the test wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from lianlu.client.base import TokenLogprob
from lianlu.core.errors import LianluError, RequestError
from lianlu.engine.engine import Stats
from lianlu.engine.sequence import Event, Request
from lianlu.formats.messages import Message, ToolSpec
from lianlu.serve.keys import Keys
from lianlu.serve.models import Served
from lianlu.serve.rest import app
from lianlu.serve.service import Limits, Service
from lianlu.tokenizer import tool_calls

MAX_LEN = 64


class CharTokenizer:
    """Each character is a token; tool calls are read as the real tokenizers do."""

    adds_bos = False
    bos_id = None
    eos_ids = (0,)

    def encode(self, text: str, specials: bool = False) -> list[int]:
        return [ord(char) for char in text]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], skip_specials: bool = True) -> str:
        return "".join(map(chr, ids))

    def stream(self) -> Any:
        return SimpleNamespace(push=chr, flush=lambda: "")

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), reply: bool = False) -> Any:
        text = "".join(f"{message.role[0]}{message.content}" for message in messages) + "".join(tool.name for tool in tools)
        return SimpleNamespace(ids=self.encode(text), text=text)

    visible = staticmethod(tool_calls.visible)
    parse = staticmethod(tool_calls.parse)


class FakeHandle:
    """Plays events; `hold` leaves the request unfinished until it is cancelled."""

    def __init__(self, events: Sequence[Event], hold: bool) -> None:
        self._events, self._hold, self.cancelled = list(events), hold, asyncio.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._events:
            await asyncio.sleep(0)
            yield event
        if self._hold:
            await self.cancelled.wait()

    async def aresult(self) -> Event:
        whole: Event | None = None
        async for event in self:
            whole = event if whole is None else Event.joined([whole, event])
        assert whole is not None
        return whole


class FakeEngine:
    """Answers every request with `pieces`, a token for each character; keeps the requests in `seen`."""

    def __init__(self, pieces: Sequence[str] = ("Hel", "lo"), finish: str = "stop", error: LianluError | None = None) -> None:
        self.engine = SimpleNamespace(
            tokenizer=CharTokenizer(),
            model=SimpleNamespace(parameters=lambda: iter([SimpleNamespace(dtype="torch.float32")])),
            max_len=MAX_LEN,
            check=self._check,
        )
        self.pieces, self.finish, self.error = pieces, finish, error
        self.max_waiting, self.hold, self.draining = 1000, False, False
        self.seen: list[Request] = []
        self.handles: list[FakeHandle] = []

    def _check(self, request: Request) -> None:
        if len(request.prompt) > MAX_LEN:
            raise RequestError(f"the prompt has {len(request.prompt)} tokens, the context {MAX_LEN}", hint="shorten it")

    def stats(self) -> Stats:
        return Stats(num_finished=len(self.seen))

    def submit(self, request: Request) -> FakeHandle:
        self._check(request)
        if len(self.seen) >= self.max_waiting:
            raise RequestError("too many requests are waiting", status=429)
        self.seen.append(request)
        self.handles.append(FakeHandle(list(self._events(request)), self.hold))
        return self.handles[-1]

    def _events(self, request: Request) -> Any:
        num_prompt, num_done = len(request.prompt), 0
        for index, piece in enumerate(self.pieces):
            num_done += len(piece)
            last = index == len(self.pieces) - 1 and not self.hold
            logprobs = [TokenLogprob(char, -0.5, ((char, -0.5), ("z", -1.5))) for char in piece]
            yield Event(
                request_id=1,
                text=piece,
                token_ids=tuple(map(ord, piece)),
                logprobs=tuple(logprobs) if request.sampling.logprobs is not None else (),
                finish_reason=("error" if self.error else self.finish) if last else None,
                prompt_tokens=num_prompt,
                completion_tokens=num_done,
                error=self.error if last else None,
            )


def service_over(engine: FakeEngine | None, name: str = "tiny", **fields: Any) -> Service:
    """A service of one model."""
    return Service({name: Served(name, engine=engine)}, **fields)  # type: ignore[arg-type]


@pytest.fixture
def fake_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serving(fake_engine: FakeEngine) -> Callable[..., Service]:
    """A service of one model, over `fake_engine` unless another one is given; keyword arguments are those of `Service`."""
    return lambda engine=fake_engine, name="tiny", **fields: service_over(engine, name, **fields)


@pytest.fixture
def ask(fake_engine: FakeEngine) -> Callable[..., httpx.Response]:
    """Send one request to a server over `fake_engine`; keyword arguments are httpx's, those of `Limits`, or `api_key`."""

    def send(method: str, path: str, *, engine: FakeEngine | None = fake_engine, **options: Any) -> httpx.Response:
        limits = Limits(**{name: options.pop(name) for name in Limits.model_fields if name in options})
        service = service_over(engine, limits=limits, keys=Keys.of(options.pop("api_key", None)))

        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(app=app(service), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(exchange())

    return send
