"""Names while models come and go, over a fake engine; real ones are loaded in tests/e2e."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from lianlu.core.errors import DataError, EngineError, RequestError
from lianlu.engine.config import EngineConfig
from lianlu.serve import loading
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller
from lianlu.serve.models import Lora, Served
from lianlu.serve.service import Service

CONFIG = EngineConfig()


def refused(work: Coroutine[Any, Any, Any]) -> ApiError:
    with pytest.raises(RequestError) as caught:
        asyncio.run(work)
    assert isinstance(caught.value, ApiError)
    return caught.value


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch, fake_engine: Any) -> dict[str, Any]:
    """What opening a model comes to: an engine, or an error; `wait` holds it up."""
    outcome: dict[str, Any] = {"result": fake_engine, "wait": threading.Event()}
    outcome["wait"].set()

    def open_model(self: Served, config: EngineConfig) -> Any:
        outcome["wait"].wait()
        if isinstance(outcome["result"], BaseException):
            raise outcome["result"]
        return outcome["result"]

    monkeypatch.setattr(Served, "open", open_model)
    return outcome


def test_a_name_is_taken_while_it_loads(serving: Callable[..., Service], opening: dict[str, Any]) -> None:
    service = serving(name="m")
    opening["wait"].clear()

    async def both() -> None:
        first = asyncio.create_task(loading.load_model(service, "n", Path("p"), CONFIG))
        await asyncio.sleep(0)
        assert service.models["n"].state == "loading"
        with pytest.raises(ApiError, match="it is loading") as caught:
            await loading.load_model(service, "n", Path("p"), CONFIG)
        assert caught.value.status == 409
        with pytest.raises(ApiError) as unready:
            service.route("n", Caller())
        assert unready.value.status == 503
        with pytest.raises(ApiError, match="is loading"):
            await loading.unload_model(service, "n")
        opening["wait"].set()
        await first

    asyncio.run(both())
    assert service.route("n", Caller()).name == "n"


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (DataError("no model", hint="h"), ApiError, 400),
        (EngineError("ours"), EngineError, None),
        (MemoryError(), MemoryError, None),
    ],
)
def test_a_name_is_free_again_if_loading_fails(
    serving: Callable[..., Service], opening: dict[str, Any], error: Exception, kind: type[Exception], status: int | None
) -> None:
    service = serving(name="m")
    opening["result"] = error
    with pytest.raises(kind) as caught:
        asyncio.run(loading.load_model(service, "n", Path("p"), CONFIG))
    assert status is None or (isinstance(caught.value, ApiError) and caught.value.status == status)
    assert list(service.models) == ["m"]


@pytest.mark.parametrize("name", ["", " ", "a b", "../x", "x" * 200, "a\nb", "\u00e9", "-x"])
def test_names_that_models_cannot_have(serving: Callable[..., Service], name: str) -> None:
    error = refused(loading.load_model(serving(), name, Path("p"), CONFIG))
    assert (error.status, error.param) == (400, "name")


def test_models_and_adapters_share_their_names(serving: Callable[..., Service]) -> None:
    service = serving(name="m")
    service.adapters["a"] = Lora("a", Path("p"), service.default)
    assert refused(loading.load_model(service, "a", Path("p"), CONFIG)).status == 409
    assert refused(loading.load_adapter(service, "m", Path("p"))).status == 409
    assert refused(loading.unload_adapter(service, "m")).status == 404
    assert refused(loading.unload_model(service, "a")).status == 404


def test_a_model_goes_with_its_adapters(serving: Callable[..., Service], opening: dict[str, Any], fake_engine: Any) -> None:
    service = serving(name="m")
    closed: list[str] = []
    fake_engine.drain = lambda seconds: closed.append(f"drained in {seconds}")
    fake_engine.close = lambda: closed.append("closed")

    async def come_and_go() -> None:
        await loading.load_model(service, "n", Path("p"), CONFIG)
        service.adapters = {key: Lora(key, Path("p"), service.models[model]) for key, model in (("a", "n"), ("b", "m"))}
        await loading.unload_model(service, "n", 2.0)

    asyncio.run(come_and_go())
    assert (list(service.models), list(service.adapters)) == (["m"], ["b"])
    assert closed == ["drained in 2.0", "closed"]


def test_the_default_passes_to_the_next_when_it_is_unloaded(
    serving: Callable[..., Service], opening: dict[str, Any], fake_engine: Any
) -> None:
    service = serving(name="m")
    fake_engine.drain = fake_engine.close = lambda *_seconds: None

    async def swap() -> None:
        await loading.load_model(service, "n", Path("p"), CONFIG)
        await loading.unload_model(service, "m")

    asyncio.run(swap())
    assert service.route("", Caller()).name == "n"


def test_a_model_that_is_loaded_after_the_end_is_closed(serving: Callable[..., Service], opening: dict[str, Any]) -> None:
    service = serving(name="m")
    closed: list[bool] = []
    opening["result"].close = lambda: closed.append(True)
    opening["wait"].clear()

    async def stop_meanwhile() -> None:
        task = asyncio.create_task(loading.load_model(service, "n", Path("p"), CONFIG))
        await asyncio.sleep(0)
        service.stopping = True
        opening["wait"].set()
        await task

    assert refused(stop_meanwhile()).status == 503
    assert closed == [True]


def test_work_in_a_thread_comes_back() -> None:
    async def both() -> None:
        assert await loading.in_thread(lambda: 1) == 1
        with pytest.raises(ZeroDivisionError):
            await loading.in_thread(lambda: 1 // 0)

    asyncio.run(both())
