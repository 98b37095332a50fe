"""What all methods have in common: who asks, how an error becomes a status, and the line in the log.

Between grpcio and the methods (`generation`, `methods`, `health`): a method is a coroutine function of a request and a
`Call`, returns a message or sends several, and raises the same errors as the routes of the REST API.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from lianlu.core import console
from lianlu.serve.failures import as_json, log_failure, reason_of
from lianlu.serve.keys import Caller
from lianlu.serve.service import Service

GONE = 499
"""The status of an exchange whose client has gone or has ended it."""
CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    GONE: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
}
MAX_DETAILS = 1000
"""Characters of an error that are sent; a status travels in a header, which peers bound."""


@dataclass
class Call:
    """One call under way; `note` is shown in its line of the log."""

    context: Any
    caller: Caller
    note: str = ""

    async def send(self, message: Any) -> None:
        """Send one message of a stream; waits while the client does not read."""
        await self.context.write(message)

    @property
    def left_s(self) -> float | None:
        """Seconds until the client's deadline; None if it has set none."""
        left: float | None = self.context.time_remaining()
        return left


Method = Callable[[Any, Call], Awaitable[Any]]


@dataclass(frozen=True)
class Guard:
    """Makes handlers for grpcio out of the methods of one service of the proto; `name` is that service's."""

    service: Service
    name: str

    def unary(self, method: Method, request: Any, reply: Any, *, is_work: bool = False) -> grpc.RpcMethodHandler:
        """A handler of a method that returns one `reply`. `is_work`: it counts against the limits of a key."""
        handle = self._handler(method, _name(request), is_work)
        return grpc.unary_unary_rpc_method_handler(handle, request.FromString, reply.SerializeToString)

    def stream(self, method: Method, request: Any, reply: Any, *, is_work: bool = False) -> grpc.RpcMethodHandler:
        """A handler of a method that sends any number of `reply`."""
        handle = self._handler(method, _name(request), is_work)
        return grpc.unary_stream_rpc_method_handler(handle, request.FromString, reply.SerializeToString)

    def _handler(self, method: Method, name: str, is_work: bool) -> Callable[[Any, Any], Awaitable[Any]]:
        where = f"/{self.name}/{name}"

        async def handle(request: Any, context: Any) -> Any:
            began, status = time.monotonic(), GONE
            call = Call(context, self.service.keys.anyone)
            try:
                call.caller = self.service.keys.caller(_authorization(context))
                is_free = not is_work or call.caller.is_admin
                with contextlib.nullcontext() if is_free else call.caller.quota.slot():
                    reply = await method(request, call)
                status = 200
            except Exception as error:
                log_failure(error, where)
                self.service.metrics.rejected(reason_of(error))
                status, code, details, metadata = as_status(error)
                await context.abort(code, details, metadata)
            finally:
                self._note(call, where, status, time.monotonic() - began)
            return reply

        return handle

    def _note(self, call: Call, where: str, status: int, seconds: float) -> None:
        """Figures, the time for `/debug/why`, and a line in the log, as those of an HTTP exchange."""
        self.service.metrics.answered("POST", where, status)
        if call.note:
            self.service.recent.answered(call.note, seconds, status)
        key = call.caller.name and f"key={call.caller.name}"
        parts = ("gRPC", where, str(status), console.format_seconds(seconds), key, call.note)
        console.log(" ".join(part for part in parts if part))


def _name(request: Any) -> str:
    """The name of the method that takes such requests."""
    name: str = request.DESCRIPTOR.name
    return name.removesuffix("Request")


def _authorization(context: Any) -> str:
    """The header in which a key comes; a binary one is none."""
    found = dict(context.invocation_metadata()).get("authorization", "")
    return found if isinstance(found, str) else ""


def as_status(error: BaseException) -> tuple[int, grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """What the REST API would answer an error with, and the same in gRPC's terms: code, details and trailing metadata."""
    status, body, headers = as_json(error)
    code = CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL)
    metadata = (("retry-after", headers["Retry-After"]),) if "Retry-After" in headers else ()
    return status, code, body["error"]["message"][:MAX_DETAILS], metadata
