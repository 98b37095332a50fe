"""Before the routes: who asks, may they ask now, and what is written down of it.

Every HTTP exchange passes here once. The key finds the caller, whose limits may refuse a POST; what the routes did not
expect is answered with 500; in the end come the access line, the figures, and the time for `/debug/why`. A few paths need no
key: health and readiness, the web page (which asks for the key itself), and the figures if the server says so.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lianlu.core import console
from lianlu.serve.exchange import json_response
from lianlu.serve.failures import ApiError, as_json, log_failure, reason_of
from lianlu.serve.keys import Caller
from lianlu.serve.service import Service

CLIENT_GONE = 499
UNLOGGED = frozenset({"/health", "/ready", "/metrics"})
OPEN_PATHS = frozenset({"/", "/favicon.ico", "/health", "/ready"})
OPEN_FOLDER = "/web/"
METERED = "/v1/"
Patterns = Mapping[Callable[..., Any], str]
"""Patterns of routes by their endpoints."""


def error_response(error: Exception) -> Response:
    """An error as JSON."""
    status, body, headers = as_json(error)
    return json_response(body, status, headers)


class Front:
    """The first and last station of an exchange."""

    def __init__(self, app: ASGIApp, service: Service, patterns: Patterns) -> None:
        self._app, self._service, self._patterns = app, service, patterns

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
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_limits(scope)]
            await send(message)

        try:
            await self._let_in(scope, receive, watched)
        except Exception as error:
            log_failure(error, where)
            scope["lianlu.reason"] = reason_of(error)
            if status == CLIENT_GONE:
                await error_response(error)(scope, receive, watched)
        finally:
            self._note(scope, where, status, time.monotonic() - began)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find out who asks, and whether they may; their place is taken until the answer has been sent."""
        answer = self._app
        with contextlib.ExitStack() as held:
            try:
                caller = scope["lianlu.caller"] = self._caller(scope)
                if _is_metered(scope) and not caller.is_admin:
                    held.enter_context(caller.quota.slot())
            except ApiError as error:
                scope["lianlu.reason"] = reason_of(error)
                answer = error_response(error)
            await answer(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        keys = self._service.keys
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        try:
            return keys.caller(given.decode("utf-8", "surrogateescape"))
        except ApiError:
            if self._is_open(scope["path"]):
                return keys.anyone
            raise

    def _is_open(self, path: str) -> bool:
        if path == "/metrics":
            return self._service.limits.metrics_public
        return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)

    def _note(self, scope: Scope, where: str, status: int, seconds: float) -> None:
        """Figures, the time for `/debug/why`, and the access line."""
        service, job_id = self._service, scope.get("lianlu.note", "")
        handler = self._patterns.get(scope["endpoint"], "other") if "endpoint" in scope else "other"
        service.metrics.answered(scope["method"], handler, status)
        if reason := scope.get("lianlu.reason"):
            service.metrics.rejected(reason)
        if job_id:
            service.recent.answered(job_id, seconds, status)
        if scope["path"] not in UNLOGGED:
            key = scope["lianlu.caller"].name if "lianlu.caller" in scope else ""
            parts = (where, str(status), console.format_seconds(seconds), key and f"key={key}", job_id)
            console.log(" ".join(part for part in parts if part))


def _is_metered(scope: Scope) -> bool:
    return scope["method"] == "POST" and str(scope["path"]).startswith(METERED)


def _limits(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What is left of the caller's limits, as headers."""
    if "lianlu.caller" not in scope or not _is_metered(scope):
        return []
    return [(name.encode(), value.encode()) for name, value in scope["lianlu.caller"].quota.headers().items()]
