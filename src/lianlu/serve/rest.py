"""The OpenAI REST API as a small Starlette application.

    POST /v1/chat/completions   GET /v1/models          GET /health   the process lives; how busy it is
    POST /v1/completions        GET /v1/models/{name}   GET /ready    the model is loaded and requests are taken

Every answer that is not a success has the shape {"error": {message, type, param, code}}. A stream that fails midway says
so in an event of its own. One access line per request goes through the console; health checks are not logged.
"""

from __future__ import annotations

import hmac
import time
import traceback
from collections.abc import Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lianlu.core import console
from lianlu.core.errors import LianluError, RequestError
from lianlu.serve import replies
from lianlu.serve.complete import prepare_completion
from lianlu.serve.exchange import ClientGoneError, EventStream, read_body, unless_gone
from lianlu.serve.failures import ApiError, as_json
from lianlu.serve.generate import Job, prepare_chat
from lianlu.serve.service import Service
from lianlu.serve.wire import ChatBody, CompletionBody, parse_body

CLIENT_GONE = 499
_NO_KEY = ApiError(
    "the API key is missing or wrong", status=401, hint="send it as Authorization: Bearer KEY", code="invalid_api_key"
)
UNLOGGED = frozenset({"/health", "/ready"})


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
        return JSONResponse({"object": "list", "data": [_card(service)]})

    async def model(request: Request) -> Response:
        service.check_name(request.path_params["name"])
        return JSONResponse(_card(service))

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": service.state} | service.load())

    async def ready(_request: Request) -> Response:
        service.ready()
        return JSONResponse({"status": service.state})

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
    ]
    kinds = (LianluError, HTTPException, ClientGoneError, Exception)
    front = Middleware(Front, api_key=service.limits.api_key)
    return Starlette(routes=routes, middleware=[front], exception_handlers=dict.fromkeys(kinds, _failed))


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
    return JSONResponse(whole, headers=headers)


def _card(service: Service) -> replies.Json:
    return replies.model_card(service.name, service.created, service.card_fields())


async def _failed(request: Request, error: Exception) -> Response:
    """The answer to an exception; one that is nobody's wish is shown in full in the log."""
    if isinstance(error, ClientGoneError):
        return Response(status_code=CLIENT_GONE)
    if isinstance(error, HTTPException):
        hint = "the API lies at /v1/chat/completions, /v1/completions and /v1/models" if error.status_code == 404 else ""
        error = ApiError(f"{request.method} {request.url.path}: {error.detail.lower()}", status=error.status_code, hint=hint)
    if not isinstance(error, RequestError):
        console.error(f"{request.method} {request.url.path} failed", hint="please report this with the lines below")
        console.info("".join(traceback.format_exception(error)))
    return error_response(error)


def error_response(error: Exception) -> Response:
    """An error as JSON."""
    status, body, headers = as_json(error)
    return JSONResponse(body, status_code=status, headers=headers)


class Front:
    """Before the routes: asks for the key, and writes the access line when the answer is complete."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one exchange on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), CLIENT_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            answer = self._app if self._may_pass(scope) else error_response(_NO_KEY)
            await answer(scope, receive, watched)
        finally:
            if scope["path"] not in UNLOGGED:
                took = console.format_seconds(time.monotonic() - began)
                console.info(f"{scope['method']} {scope['path']} {status} {took} {scope.get('lianlu.note', '')}".rstrip())

    def _may_pass(self, scope: Scope) -> bool:
        if self._key is None or not scope["path"].startswith("/v1"):
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + self._key.encode())
