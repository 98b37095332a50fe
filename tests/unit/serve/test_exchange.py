"""One HTTP exchange at the level of ASGI messages: bodies, clients that go, readers that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from lianlu.serve import exchange
from lianlu.serve.exchange import ClientGoneError, EventStream, read_body, unless_gone
from lianlu.serve.failures import ApiError

Receive = Callable[[], Awaitable[Any]]
GONE = {"type": "http.disconnect"}


def receiving(*messages: dict[str, Any]) -> Receive:
    """The messages one by one, then silence."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def body(*pieces: bytes) -> list[dict[str, Any]]:
    return [{"type": "http.request", "body": piece, "more_body": index < len(pieces) - 1} for index, piece in enumerate(pieces)]


def read(messages: list[dict[str, Any]], max_bytes: int, headers: dict[str, str] | None = None) -> bytes:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    request = Request({"type": "http", "method": "POST", "headers": raw}, receiving(*messages))
    return asyncio.run(asyncio.wait_for(read_body(request, max_bytes), 5))


def test_a_body_in_pieces() -> None:
    assert read(body(b"ab", b"", b"c"), 3) == b"abc"
    assert read(body(b""), 0) == b""


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"ab", b"cd"], [b"a"] * 9, [b"x" * 100, b"never read"]])
def test_a_body_that_is_too_large(pieces: list[bytes]) -> None:
    with pytest.raises(ApiError) as caught:
        read(body(*pieces), 3)
    assert caught.value.status == 413


def test_a_declared_length_far_too_large_is_refused_unread() -> None:
    with pytest.raises(ApiError):
        read([], 10, {"content-length": "1000000"})


def test_a_client_that_goes_while_it_sends() -> None:
    with pytest.raises(ClientGoneError):
        read([*body(b"ab", b"c")[:1], GONE], 10)


async def _work(done: list[str], seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        done.append("cancelled")
        raise
    done.append("finished")
    return "result"


def test_work_is_cancelled_when_the_client_goes() -> None:
    done: list[str] = []
    with pytest.raises(ClientGoneError):
        asyncio.run(unless_gone(receiving(GONE), _work(done, 60)))
    assert done == ["cancelled"]


def test_work_goes_on_while_the_client_is_there() -> None:
    done: list[str] = []
    assert asyncio.run(unless_gone(receiving(), _work(done, 0))) == "result"
    assert done == ["finished"]


def test_the_error_of_the_work_comes_through() -> None:
    async def fail() -> None:
        raise ApiError("no", status=418)

    with pytest.raises(ApiError, match="no"):
        asyncio.run(unless_gone(receiving(), fail()))


class Wire:
    """The sending side; `stuck` never takes a body."""

    def __init__(self, stuck: bool = False) -> None:
        self.sent: list[bytes] = []
        self.stuck, self.ended = stuck, False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            if self.stuck:
                await asyncio.Event().wait()
            self.sent.append(message["body"])
            self.ended = not message.get("more_body")


async def _batches(
    *batches: list[dict[str, Any]], then: Exception | None = None, wait: bool = False
) -> AsyncIterator[list[dict[str, Any]]]:
    for batch in batches:
        yield batch
    if wait:
        await asyncio.Event().wait()
    if then is not None:
        raise then


def stream(batches: AsyncIterator[list[dict[str, Any]]], wire: Wire, *messages: dict[str, Any]) -> int:
    """Run a stream; how often its source was closed."""
    closed: list[int] = []
    response = EventStream(batches, {"X-Request-Id": "1"}, close=lambda: closed.append(1))
    asyncio.run(asyncio.wait_for(response({"type": "http"}, receiving(*messages), wire.send), 5))
    return len(closed)


def test_one_write_per_batch() -> None:
    wire = Wire()
    assert stream(_batches([{"a": 1}, {"b": "\u00e9"}], [], [{"c": 2}]), wire) == 1
    assert wire.sent == [b'data: {"a":1}\n\ndata: {"b":"\xc3\xa9"}\n\n', b'data: {"c":2}\n\n', b"data: [DONE]\n\n"]
    assert wire.ended


def test_an_error_is_the_last_event() -> None:
    wire = Wire()
    stream(_batches([{"a": 1}], then=ApiError("broken", status=503)), wire)
    assert b'"message":"broken"' in wire.sent[-1]
    assert b"[DONE]" not in b"".join(wire.sent)
    assert wire.ended


def test_the_source_is_closed_when_the_client_goes() -> None:
    wire = Wire()
    assert stream(_batches([{"a": 1}], wait=True), wire, GONE) == 1
    assert not wire.ended


def test_a_reader_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SLOW_READER_S", 0.01)
    assert stream(_batches([{"a": 1}]), Wire(stuck=True)) == 1
