"""The OpenAI REST API as a small Starlette application.

    POST /v1/chat/completions   GET /v1/models          GET /health   the process lives; how busy it is
    POST /v1/completions        GET /v1/models/{name}   GET /ready    the model is loaded and requests are taken

Every answer that is not a success has the shape {"error": {message, type, param, code}}. A stream that fails midway says
so in an event of its own. One access line per request goes through the console; health checks are not logged.
"""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lianlu.core import console
from lianlu.core.errors import LianluError
from lianlu.serve import complete, generate, listing
from lianlu.serve.exchange import ClientGoneError, json_response
from lianlu.serve.failures import ApiError, as_json, log_failure
from lianlu.serve.service import Service

CLIENT_GONE = 499
UNLOGGED = frozenset({"/health", "/ready"})
OPEN_PATHS = frozenset({"/", "/favicon.ico", "/health", "/ready"})
OPEN_FOLDER = "/web/"


def app(service: Service) -> Starlette:
    """The application that serves `service`; its models may still be loading."""
    parts = (generate, complete, listing)
    kinds: tuple[type[Exception], ...] = (LianluError, HTTPException, ClientGoneError)
    return Starlette(
        routes=[route for part in parts for route in part.routes(service)],
        middleware=[Middleware(Front, service=service)],
        exception_handlers=dict.fromkeys(kinds, _refused),
    )


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


class Front:
    """Before the routes: asks for the key, answers for what the routes did not expect, and writes the access line."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

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
            await self._pass_on(scope, receive, watched)
        except Exception as error:
            log_failure(error, where)
            if status == CLIENT_GONE:
                await error_response(error)(scope, receive, watched)
        finally:
            if scope["path"] not in UNLOGGED:
                took = console.format_seconds(time.monotonic() - began)
                console.info(f"{where} {status} {took} {scope.get('lianlu.note', '')}".rstrip())

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find out who asks, and let them in."""
        answer = self._app
        if scope["path"] not in OPEN_PATHS and not scope["path"].startswith(OPEN_FOLDER):
            try:
                headers = dict(scope["headers"])
                scope["lianlu.caller"] = self._service.keys.caller(headers.get(b"authorization", b"").decode("latin-1"))
            except ApiError as error:
                answer = error_response(error)
        await answer(scope, receive, send)
