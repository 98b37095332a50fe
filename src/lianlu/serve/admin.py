"""What the admin may do while the server runs: models, adapters, sleep; and what each caller may do with its sessions.

    POST /admin/models/load         {name, path, engine?}          POST /sleep     ?model=NAME
    POST /admin/models/unload       {name, drain_s?}               POST /wake_up   ?model=NAME
    POST /v1/load_lora_adapter      {lora_name, lora_path, base_model_name?}       GET /is_sleeping   ?model=NAME
    POST /v1/unload_lora_adapter    {lora_name}                    GET /v1/sessions, DELETE /v1/sessions/{name}   ?model=NAME

All but the last three need the admin key; without one on the server nobody may. Paths are those of the server's machine.
Shapes of adapters and sleep are vLLM's. `engine` changes fields of the server's own engine table for that model.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lianlu.core import console
from lianlu.core.config import canonical, merge, validate
from lianlu.core.errors import ConfigError
from lianlu.engine.config import EngineConfig
from lianlu.engine.sessions import Sessions
from lianlu.model.pull import local_path
from lianlu.serve import loading
from lianlu.serve.exchange import json_response, read_body
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import caller_of
from lianlu.serve.listing import card
from lianlu.serve.service import Service
from lianlu.serve.wire import Strict, parse_body

Text = Annotated[str, Field(min_length=1, max_length=4096)]
B = TypeVar("B", bound=Strict)


class LoadModel(Strict):
    """Body of POST /admin/models/load; `path` may also be the name of a model that was pulled."""

    name: Text
    path: Text
    engine: dict[str, Any] | None = None


class UnloadModel(Strict):
    """Body of POST /admin/models/unload; `drain_s` are the seconds that running requests get to finish."""

    name: Text
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 0.0


class LoadAdapter(Strict):
    """Body of POST /v1/load_lora_adapter."""

    lora_name: Text
    lora_path: Text
    base_model_name: str | None = None


class UnloadAdapter(Strict):
    """Body of POST /v1/unload_lora_adapter; the number that vLLM knows an adapter by is not needed."""

    lora_name: Text
    lora_int_id: int | None = None


def routes(service: Service) -> list[Route]:
    """The admin's routes, and the sessions."""
    return [*_model_routes(service), *_adapter_routes(service), *_sleep_routes(service), *_session_routes(service)]


async def _asked(service: Service, request: Request, cls: type[B]) -> B:
    """The admin's body. Raises: ApiError (403, 400, 413)."""
    service.keys.check_admin(caller_of(request))
    return parse_body(cls, await read_body(request, service.limits.max_body_bytes))


def _model_routes(service: Service) -> list[Route]:
    async def load(request: Request) -> Response:
        body = await _asked(service, request, LoadModel)
        path = local_path(body.path) or Path(body.path)
        await loading.load_model(service, body.name, path, _engine_config(service, body.engine))
        console.info(f"loaded {body.name!r} from {body.path!r}")
        return json_response(card(service, body.name))

    async def unload(request: Request) -> Response:
        body = await _asked(service, request, UnloadModel)
        await loading.unload_model(service, body.name, body.drain_s)
        console.info(f"unloaded {body.name!r}")
        return json_response({"id": body.name, "object": "model", "deleted": True})

    return [
        Route("/admin/models/load", load, methods=["POST"]),
        Route("/admin/models/unload", unload, methods=["POST"]),
    ]


def _engine_config(service: Service, changes: dict[str, Any] | None) -> EngineConfig:
    """How a new model is run: as the first one, but for `changes`. Raises: ApiError (400)."""
    try:
        return validate(EngineConfig, merge(canonical(service.engine_config), changes or {}), where="engine")
    except ConfigError as error:
        raise ApiError(error.message, hint=error.hint, param="engine", code="invalid_value") from error


def _adapter_routes(service: Service) -> list[Route]:
    async def load(request: Request) -> Response:
        body = await _asked(service, request, LoadAdapter)
        await loading.load_adapter(service, body.lora_name, Path(body.lora_path), body.base_model_name or "")
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(request: Request) -> Response:
        body = await _asked(service, request, UnloadAdapter)
        await loading.unload_adapter(service, body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return [
        Route("/v1/load_lora_adapter", load, methods=["POST"]),
        Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
    ]


def _sleep_routes(service: Service) -> list[Route]:
    async def sleep(request: Request) -> Response:
        service.keys.check_admin(caller_of(request))
        served = await loading.sleep(service, _model(request))
        return json_response({"id": served.name, "is_sleeping": True})

    async def wake(request: Request) -> Response:
        service.keys.check_admin(caller_of(request))
        served = await loading.wake(service, _model(request))
        return json_response({"id": served.name, "is_sleeping": False})

    async def asleep(request: Request) -> Response:
        served, _ = service.find(_model(request))
        return json_response({"is_sleeping": served.state == "asleep"})

    return [
        Route("/sleep", sleep, methods=["POST"]),
        Route("/wake_up", wake, methods=["POST"]),
        Route("/is_sleeping", asleep, methods=["GET"]),
    ]


def _model(request: Request) -> str:
    return request.query_params.get("model", "")


def _session_routes(service: Service) -> list[Route]:
    async def kept(request: Request) -> Response:
        sessions, salt = _sessions(service, request), caller_of(request).salt
        found = await asyncio.to_thread(sessions.list, salt)
        return json_response({"object": "list", "data": [{"object": "session"} | asdict(info) for info in found]})

    async def delete(request: Request) -> Response:
        sessions, name = _sessions(service, request), request.path_params["name"]
        await asyncio.to_thread(sessions.delete, name, caller_of(request).salt)
        return json_response({"name": name, "object": "session", "deleted": True})

    return [
        Route("/v1/sessions", kept, methods=["GET"]),
        Route("/v1/sessions/{name}", delete, methods=["DELETE"]),
    ]


def _sessions(service: Service, request: Request) -> Sessions:
    """The kept sessions of a model. Raises: ApiError (400 if it keeps none; 403, 404, 503)."""
    route = service.route(_model(request), caller_of(request))
    sessions = route.engine.engine.sessions
    if sessions is None:
        hint = "start the server with a folder for them: --sessions FOLDER"
        raise ApiError("this server keeps no sessions", hint=hint, code="no_sessions")
    return sessions
