"""The OpenAI REST API as a small Starlette application.

    POST /v1/chat/completions   GET /v1/models          GET /health   the process lives; how busy it is
    POST /v1/completions        GET /v1/models/{name}   GET /ready    the model is loaded and requests are taken

Every answer that is not a success has the shape {"error": {message, type, param, code}}. A stream that fails midway says
so in an event of its own. One access line per request goes through the console; health checks are not logged.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lianlu.core import console
from lianlu.core.errors import LianluError
from lianlu.serve import replies
from lianlu.serve.complete import prepare_completion
from lianlu.serve.exchange import ClientGoneError, EventStream, as_bytes, read_body, unless_gone
from lianlu.serve.failures import ApiError, as_json, log_failure
from lianlu.serve.generate import Job, prepare_chat
from lianlu.serve.service import Service
from lianlu.serve.wire import ChatBody, CompletionBody, parse_body

CLIENT_GONE = 499
UNLOGGED = frozenset({"/health", "/ready"})
_KEY_HINT = "send it as Authorization: Bearer KEY"
_NO_KEY = ApiError("the API key is missing or wrong", status=401, hint=_KEY_HINT, code="invalid_api_key")


def app(service: Service) -> Starlette:
    """The application that serves `service`; its model may still be loading."""

    async def chat(request: Request) -> Response:
        body = parse_body(ChatBody, await read_body(request, service.limits.max_body_bytes))
        service.check_name(body.model)
        return await _answer(request, prepare_chat(service, body), bool(body.stream))

    async def complete(request: Request) -> Response:
        body = parse_body(CompletionBody, await read_body(request, service.limits.max_body_bytes))
        service.check_name(body.model)
        return await _answer(request, prepare_completion(service, body), bool(body.stream))

    async def models(_request: Request) -> Response:
        return json_response({"object": "list", "data": [_card(service)]})

    async def model(request: Request) -> Response:
        service.check_name(request.path_params["name"])
        return json_response(_card(service))

    async def health(_request: Request) -> Response:
        return json_response({"status": service.state} | service.load())

    async def ready(_request: Request) -> Response:
        service.ready()
        return json_response({"status": service.state})

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
    ]
    kinds: tuple[type[Exception], ...] = (LianluError, HTTPException, ClientGoneError)
    front = Middleware(Front, api_key=service.limits.api_key)
    return Starlette(routes=routes, middleware=[front], exception_handlers=dict.fromkeys(kinds, _refused))


async def _answer(request: Request, preparing: Coroutine[Any, Any, Job], stream: bool) -> Response:
    """Run a job for as long as the client is there; its sequences end in every case."""
    job = await unless_gone(request.receive, preparing)
    request.scope["lianlu.note"] = job.head.id
    headers = {"X-Request-Id": job.head.id}
    if stream:
        return EventStream(job.chunks(), headers, close=job.run.cancel)
    try:
        whole = await unless_gone(request.receive, job.whole())
    finally:
        job.run.cancel()
    return json_response(whole, headers=headers)


def _card(service: Service) -> replies.Json:
    return replies.model_card(service.name, service.created, service.card_fields())


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to what a route raised on purpose."""
    if isinstance(error, ClientGoneError):
        return Response(status_code=CLIENT_GONE)
    if isinstance(error, HTTPException):
        hint = "the API lies at /v1/chat/completions, /v1/completions and /v1/models" if error.status_code == 404 else ""
        error = ApiError(f"{request.method} {request.url.path}: {error.detail.lower()}", status=error.status_code, hint=hint)
    log_failure(error, f"{request.method} {request.url.path}")
    return error_response(error)


def error_response(error: Exception) -> Response:
    """An error as JSON."""
    status, body, headers = as_json(error)
    return json_response(body, status, headers)


def json_response(value: replies.Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON value; characters that have no UTF-8 (broken escapes in a tool call) become question marks."""
    return Response(as_bytes(value), status, headers, media_type="application/json")


class Front:
    """Before the routes: asks for the key, answers for what the routes did not expect, and writes the access line."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one exchange on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), CLIENT_GONE
        # as it was sent, so that no escape in a path can write lines or colours into the log
        where = f"{scope['method']} {(scope.get('raw_path') or b'?').decode('ascii', 'replace')}"

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            answer = self._app if self._may_pass(scope) else error_response(_NO_KEY)
            await answer(scope, receive, watched)
        except Exception as error:
            log_failure(error, where)
            if status == CLIENT_GONE:
                await error_response(error)(scope, receive, watched)
        finally:
            if scope["path"] not in UNLOGGED:
                took = console.format_seconds(time.monotonic() - began)
                console.info(f"{where} {status} {took} {scope.get('lianlu.note', '')}".rstrip())

    def _may_pass(self, scope: Scope) -> bool:
        if self._key is None or not scope["path"].startswith("/v1"):
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + self._key.encode())
