"""Which engine answers to a name, for whom, and in which state."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lianlu.client.base import Sampling
from lianlu.core.errors import RequestError
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Stats
from lianlu.engine.sequence import Request
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller
from lianlu.serve.models import Lora, Served

REQUEST = Request((1, 2), Sampling())
ANYONE = Caller()


def test_states(serving: Any, fake_engine: Any) -> None:
    service = serving(None, "m")
    assert service.state == "loading"
    with pytest.raises(ApiError, match="the server is loading"):
        service.route("m", ANYONE)
    service.default.engine = fake_engine
    assert (service.state, service.route("m", ANYONE).engine) == ("ready", fake_engine)
    service.stopping = True
    assert service.state == "draining"
    with pytest.raises(ApiError, match="the server is draining"):
        service.route("", ANYONE)


def test_names(serving: Any, fake_engine: Any) -> None:
    service = serving(name="m")
    service.models["n"] = Served("n")
    service.adapters["a"] = Lora("a", Path("somewhere"), service.default)
    assert [service.route(name, ANYONE).name for name in ("", "m")] == ["m", "m"]
    route = service.route("a", ANYONE)
    assert (route.name, route.adapter, route.engine) == ("a", "a", fake_engine)
    with pytest.raises(ApiError, match="the model 'n' is loading"):
        service.route("n", ANYONE)
    with pytest.raises(ApiError, match="there is no model 'o'") as caught:
        service.route("o", ANYONE)
    assert caught.value.status == 404


def test_a_server_without_a_name_answers_to_every_name(serving: Any) -> None:
    service = serving(name="")
    assert service.route("anything", ANYONE).name == "anything"
    assert service.route("", ANYONE).name == ""


def test_a_caller_asks_only_what_it_may(serving: Any) -> None:
    service = serving(name="m")
    service.adapters["a"] = Lora("a", Path("somewhere"), service.default)
    assert service.route("a", Caller("k", models=["a"])).adapter == "a"
    with pytest.raises(ApiError, match="may not use that model") as caught:
        service.route("", Caller("k", models=["a"]))
    assert caught.value.status == 403


def test_requests_carry_adapter_and_salt(serving: Any, fake_engine: Any) -> None:
    service = serving(name="m")
    service.adapters["a"] = Lora("a", Path("somewhere"), service.default)
    caller = Caller("k", salt="s")
    service.run(service.route("a", caller), caller, "cmpl-1", [REQUEST])
    assert (fake_engine.seen[0].adapter, fake_engine.seen[0].salt) == ("a", "s")


def test_choices_of_one_prompt_are_charged_for_it_once(serving: Any) -> None:
    service = serving(name="m")
    charged: list[int] = []
    caller = Caller("k")
    caller.charge = charged.append  # type: ignore[method-assign]
    other = Request((3,), Sampling())

    async def ask() -> None:
        await service.run(service.route("m", caller), caller, "cmpl-1", [REQUEST, REQUEST, other, other]).results()

    asyncio.run(ask())
    assert charged == [7, 5, 6, 5]


def test_what_would_be_refused_is_refused_before_its_prompt_is_read(serving: Any, fake_engine: Any) -> None:
    service = serving(name="m")
    route = service.route("m", ANYONE)
    service.check_room(route)
    fake_engine.engine.config = EngineConfig(max_running=1, max_queued=2)
    fake_engine.stats = lambda: Stats(num_running=1, num_queued=1)
    service.check_room(route)
    fake_engine.stats = lambda: Stats(num_running=1, num_queued=2)
    with pytest.raises(RequestError) as caught:
        service.check_room(route)
    assert caught.value.status == 429
