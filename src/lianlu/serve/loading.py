"""Loading and unloading beside running requests: models, adapters, sleep.

All of it changes the tables of a `Service` on the event loop alone, so that names never collide; what takes long runs in
threads or on an engine's thread. A name is taken while its model is being loaded (requests for it get 503), and is free again
if loading fails. A model is unloaded when nothing runs on it, or after `drain_s` in which it takes no new requests; an adapter
only when no request uses it. The last model stays: a server without one could answer nothing.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from lianlu.core.errors import LianluError, RequestError
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.serve.failures import ApiError
from lianlu.serve.models import Lora, Served
from lianlu.serve.service import Service

THREAD = "lianlu-load"
T = TypeVar("T")
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w./:@-]{0,127}", re.ASCII)


async def load_model(service: Service, name: str, path: Path, config: EngineConfig) -> Served:
    """Serve the model at `path` as `name`. Raises: ApiError (400: cannot be loaded, 409: the name is taken)."""
    if not MODEL_NAME.fullmatch(name):
        raise ApiError(f"{name[:128]!r} cannot be the name of a model", hint="use letters, digits and . _ - / : @", param="name")
    check_free(service, name)
    served = Served(name, path)
    service.models[name] = served
    try:
        engine = await in_thread(lambda: served.open(config))
    except BaseException as error:
        del service.models[name]
        raise _told(error, "path") from error
    if service.stopping:
        engine.close()
        raise ApiError("the server is draining", status=503, code="draining")
    served.engine = engine
    return served


async def unload_model(service: Service, name: str, drain_s: float = 0.0) -> None:
    """Stop serving a model and free its memory.

    Raises: ApiError (404; 409: requests run on it, it is being loaded, or it is the last one).
    """
    served = service.models.get(name)
    if served is None:
        service.find(name)
        raise ApiError(
            f"there is no model {name[:200]!r}", status=404, hint="adapters are unloaded by their own route", param="name"
        )
    if len(service.models) == 1:
        hint = "load another one first, or put this one to sleep"
        raise ApiError(f"{name!r} is the only model", status=409, hint=hint, param="name", code="last_model")
    if served.engine is None or served.engine.draining:
        raise ApiError(
            f"the model {name!r} is {served.state}", status=409, hint="try again later", param="name", code=served.state
        )
    stats = served.engine.stats()
    if drain_s == 0 and (left := stats.num_running + stats.num_queued):
        hint = "give drain_s, the seconds they may take to finish"
        raise ApiError(f"{left} requests run on {name!r}", status=409, hint=hint, param="name", code="in_use")
    await asyncio.to_thread(served.engine.drain, drain_s)
    del service.models[name]
    service.adapters = {key: lora for key, lora in service.adapters.items() if lora.served is not served}
    await asyncio.to_thread(served.engine.close)


async def load_adapter(service: Service, name: str, path: Path, model: str = "") -> Lora:
    """Serve an adapter as `name` on a model ("": the default one). Raises: ApiError (400, 404, 409), RequestError."""
    check_free(service, name)
    served, engine = _engine_of(service, model)
    try:
        await asyncio.to_thread(engine.engine.adapters.load, name, path)
    except BaseException as error:
        raise _told(error, "lora_path") from error
    service.adapters[name] = lora = Lora(name, path, served)
    return lora


async def unload_adapter(service: Service, name: str) -> None:
    """Stop serving an adapter. Raises: ApiError (404), RequestError (409: a request uses it)."""
    lora = service.adapters.get(name)
    if lora is None:
        hint = f"there are {', '.join(service.adapters)}" if service.adapters else "no adapter is loaded"
        raise ApiError(f"there is no adapter {name[:200]!r}", status=404, hint=hint, param="lora_name", code="model_not_found")
    _, engine = _engine_of(service, lora.served.name)
    await engine.acall(lambda: engine.engine.adapters.unload(name))
    service.adapters.pop(name, None)


async def sleep(service: Service, model: str = "") -> Served:
    """Give a model's memory back until `wake`. Raises: ApiError (404, 409), RequestError (409: requests run)."""
    served, engine = _engine_of(service, model)
    try:
        await engine.acall(engine.engine.sleep)
    except BaseException as error:
        raise _told(error, None) from error
    return served


async def wake(service: Service, model: str = "") -> Served:
    """Read a sleeping model's weights again. Raises: ApiError (404; 400 if its files are gone or changed, it sleeps on then)."""
    served, engine = _engine_of(service, model)
    try:
        await engine.acall(engine.engine.wake)
    except BaseException as error:
        raise _told(error, None) from error
    return served


def check_free(service: Service, name: str) -> None:
    """Raises: ApiError (409) if a model or an adapter has that name."""
    if name in service.models or name in service.adapters:
        state = service.models[name].state if name in service.models else "ready"
        hint = "wait for it" if state == "loading" else "unload it first, or choose another name"
        raise ApiError(
            f"there is a model {name!r} already, it is {state}", status=409, hint=hint, param="name", code="name_taken"
        )


def _engine_of(service: Service, model: str) -> tuple[Served, BackgroundEngine]:
    """A loaded model, asleep or not. Raises: ApiError (404, 409)."""
    served, _ = service.find(model)
    if served.engine is None or served.engine.draining or service.stopping:
        raise ApiError(f"the model {served.name!r} is {served.state}", status=409, hint="try again later", code=served.state)
    return served, served.engine


def _told(error: BaseException, param: str | None) -> BaseException:
    """A failure to load as the client's mistake; failures of ours stay what they are."""
    if isinstance(error, RequestError) or not isinstance(error, LianluError) or error.exit_code == 1:
        return error
    return ApiError(error.message, hint=error.hint, param=param, code="cannot_load")


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run `work` in a thread that does not keep the process alive."""
    future: Future[T] = Future()

    def body() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, name=THREAD, daemon=True).start()
    return asyncio.wrap_future(future)


def is_under_way() -> bool:
    """Whether something is being loaded in this process."""
    return any(thread.name == THREAD for thread in threading.enumerate())
