"""One HTTP exchange: reading a bounded body, noticing that the client has gone, and sending a reply whole or as events.

uvicorn tells an application about a lost connection only when it asks, so whatever takes long runs beside a watch on
`receive`, and is cancelled when the client goes. A half-closed connection counts as gone. A reader that takes nothing
for `SLOW_READER_S` is dropped; until then what it holds up is bounded by its own reply (see `engine.background`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lianlu.core import console
from lianlu.serve.failures import ApiError, as_json, log_failure
from lianlu.serve.replies import Head, Json
from lianlu.serve.run import Run

SLOW_READER_S = 60.0
DISCARD_FACTOR = 4
DONE = b"data: [DONE]\n\n"
T = TypeVar("T")
Batch = list[Json | bytes]
"""Chunks that are sent in one write, as JSON values or as events already written."""


class Job(Protocol):
    """A request whose sequences run; `head.id` is the request's id in headers, in the log and for `/debug/why`."""

    @property
    def head(self) -> Head: ...

    @property
    def run(self) -> Run: ...

    async def whole(self) -> Json:
        """The reply in one piece."""

    def chunks(self) -> AsyncIterator[Batch]:
        """The reply as batches of chunks."""


class ClientGoneError(Exception):
    """The client has closed the connection; nobody waits for an answer."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body. Raises: ApiError (413) if it is too large, ClientGoneError if it breaks off.

    A body somewhat too large is read to its end and thrown away, because a client that is still writing does not see the answer.
    """
    kept, size = bytearray(), 0
    declared = request.headers.get("content-length", "")
    over = declared.isdigit() and int(declared) > max_bytes * DISCARD_FACTOR
    while not over and size <= max_bytes * DISCARD_FACTOR:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        size += len(message.get("body", b""))
        if size <= max_bytes:
            kept += message.get("body", b"")
        if not message.get("more_body", False):
            break
    if over or size > max_bytes:
        hint = "send less, or start the server with a larger max_body_bytes"
        raise ApiError(f"the body is larger than {console.format_bytes(max_bytes)}", status=413, hint=hint, code="body_too_large")
    return bytes(kept)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work` while the client is there; cancel it when the client goes. Raises: ClientGoneError then."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled():
            return task.result()
        raise ClientGoneError
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(request: Request, preparing: Coroutine[Any, Any, Job], stream: bool, done: bytes = DONE) -> Response:
    """Run a job for as long as the client is there; its sequences end in every case. `done` ends a stream.

    Raises: what the job raises.
    """
    job = await unless_gone(request.receive, preparing)
    request.scope["lianlu.note"] = job.head.id
    headers = {"X-Request-Id": job.head.id}
    if stream:
        return EventStream(job.chunks(), headers, close=job.run.cancel, done=done)
    try:
        whole = await unless_gone(request.receive, job.whole())
    finally:
        job.run.cancel()
    return json_response(whole, headers=headers)


def json_response(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON value; characters that have no UTF-8 (broken escapes in a tool call) become question marks."""
    return Response(as_bytes(value), status, headers, media_type="application/json")


class EventStream(Response):
    """A response of server-sent events: each item of `batches` is sent as one write, followed by `done`.

    An error on the way becomes an event of its own and ends the stream without `done`, as the status line is long gone.
    """

    media_type = "text/event-stream"

    def __init__(
        self, batches: AsyncIterator[Batch], headers: dict[str, str], close: Callable[[], None], done: bytes = DONE
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | headers)
        del self.headers["content-length"]
        self._batches, self._close, self._done = batches, close, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it ends or the client goes; `close` is called in every case."""
        try:
            with contextlib.suppress(ClientGoneError):
                await unless_gone(receive, self._send_all(send))
        finally:
            self._close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        last = self._done
        with _Patience() as patience:
            try:
                async for batch in self._batches:
                    if batch:
                        await patience.write(send, b"".join(map(event, batch)))
            except Exception as error:
                log_failure(error, "a stream")
                last = event(as_json(error)[1])
            await patience.write(send, last, more=False)


class _Patience:
    """Gives the current task up when one of its writes takes longer than `SLOW_READER_S`.

    One timer looks every now and then, because a time limit around each write costs more than the write.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._since_s: float | None = None

    def __enter__(self) -> _Patience:
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    async def write(self, send: Send, body: bytes, more: bool = True) -> None:
        """Send a part of the body; waits while the reader takes nothing."""
        self._since_s = self._loop.time()
        await send({"type": "http.response.body", "body": body, "more_body": more})
        self._since_s = None

    def _look(self) -> None:
        self._timer = self._loop.call_later(SLOW_READER_S / 4, self._look)
        if self._task is not None and self._since_s is not None and self._loop.time() - self._since_s > SLOW_READER_S:
            self._task.cancel()


def event(value: Json | bytes) -> bytes:
    """A server-sent event that carries a JSON value; what is written already stays as it is."""
    return value if isinstance(value, bytes) else b"data: " + as_bytes(value) + b"\n\n"


def as_bytes(value: Json) -> bytes:
    """A value as JSON in UTF-8; what has no UTF-8 becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
