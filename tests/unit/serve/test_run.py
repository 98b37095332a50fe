"""The sequences of one request: all or none, in order, as they come; each is noted once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lianlu.client.base import Sampling
from lianlu.core.errors import EngineError, RequestError
from lianlu.engine.sequence import Event, Request
from lianlu.serve.failures import ApiError
from lianlu.serve.run import Run, checked

REQUEST = Request((1, 2), Sampling())


def collect(run: Run) -> list[dict[int, Event]]:
    async def read() -> list[dict[int, Event]]:
        return [batch async for batch in run.batches()]

    return asyncio.run(asyncio.wait_for(read(), 5))


@pytest.mark.parametrize("count", [1, 3])
def test_batches_hold_everything_once_and_end(fake_engine: Any, count: int) -> None:
    batches = collect(Run(fake_engine, [REQUEST] * count))
    for index in range(count):
        mine = [batch[index] for batch in batches if index in batch]
        assert "".join(event.text for event in mine) == "Hello"
        assert [event.finish_reason for event in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == "stop"


def test_one_that_is_refused_takes_the_others_with_it(fake_engine: Any) -> None:
    fake_engine.max_waiting = 2
    with pytest.raises(RequestError):
        Run(fake_engine, [REQUEST] * 3)
    assert [handle.cancelled.is_set() for handle in fake_engine.handles] == [True, True]


@pytest.mark.parametrize("count", [1, 2])
def test_the_failure_of_one_is_the_failure_of_all(fake_engine: Any, count: int) -> None:
    fake_engine.finish, fake_engine.error = "error", EngineError("broken")
    with pytest.raises(EngineError):
        collect(Run(fake_engine, [REQUEST] * count))
    with pytest.raises(EngineError):
        asyncio.run(Run(fake_engine, [REQUEST] * count).results())


def test_a_request_that_was_given_up_is_503() -> None:
    with pytest.raises(ApiError) as caught:
        checked(Event(0, finish_reason="cancelled"))
    assert caught.value.status == 503


@pytest.mark.parametrize("count", [1, 2])
def test_every_end_is_noted_once(fake_engine: Any, count: int) -> None:
    noted: list[Event] = []
    collect(Run(fake_engine, [REQUEST] * count, lambda _index, event: noted.append(event)))
    assert [event.finish_reason for event in noted] == ["stop"] * count
    asyncio.run(Run(fake_engine, [REQUEST] * count, lambda _index, event: noted.append(event)).results())
    assert len(noted) == 2 * count


def test_what_is_given_up_is_noted_too(fake_engine: Any) -> None:
    fake_engine.hold = True
    noted: list[Event] = []

    async def give_up() -> None:
        run = Run(fake_engine, [REQUEST] * 2, lambda _index, event: noted.append(event))
        run.cancel()
        run.cancel()
        await asyncio.sleep(0.05)

    asyncio.run(give_up())
    assert len(noted) == 2
