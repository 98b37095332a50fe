"""What all methods have in common: who asks, how an error becomes a status, and the line in the log.

Between grpcio and the methods (`generation`, `methods`, `health`): a method is a coroutine function of a request and a
`Call`, returns a message or sends several, and raises the same errors as the routes of the REST API.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from lianlu.core import console
from lianlu.serve.failures import as_json, log_failure
from lianlu.serve.keys import Caller, Keys

CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
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
    """Makes handlers for grpcio out of methods."""

    keys: Keys

    def unary(self, method: Method, request: Any, reply: Any, *, is_work: bool = False) -> grpc.RpcMethodHandler:
        """A handler of a method that returns one `reply`. `is_work`: it counts against the limits of a key."""
        handle = self._handler(method, is_work)
        return grpc.unary_unary_rpc_method_handler(handle, request.FromString, reply.SerializeToString)

    def stream(self, method: Method, request: Any, reply: Any, *, is_work: bool = False) -> grpc.RpcMethodHandler:
        """A handler of a method that sends any number of `reply`."""
        handle = self._handler(method, is_work)
        return grpc.unary_stream_rpc_method_handler(handle, request.FromString, reply.SerializeToString)

    def _handler(self, method: Method, is_work: bool) -> Callable[[Any, Any], Awaitable[Any]]:
        name = method.__name__

        async def handle(request: Any, context: Any) -> Any:
            began, status = time.monotonic(), grpc.StatusCode.CANCELLED
            call = Call(context, self.keys.anyone)
            try:
                call.caller = self.keys.caller(_authorization(context))
                with call.caller.quota.slot() if is_work else contextlib.nullcontext():
                    reply = await method(request, call)
                status = grpc.StatusCode.OK
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log_failure(error, f"gRPC {name}")
                status, details, metadata = as_status(error)
                await context.abort(status, details, metadata)
            finally:
                took = console.format_seconds(time.monotonic() - began)
                console.info(f"gRPC {name} {status.name} {took} {call.note}".rstrip())
            return reply

        return handle


def _authorization(context: Any) -> str:
    """The header in which a key comes; a binary one is none."""
    found = dict(context.invocation_metadata()).get("authorization", "")
    return found if isinstance(found, str) else ""


def as_status(error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status, details and trailing metadata for an error: those that the REST API would answer with, in gRPC's terms."""
    status, body, headers = as_json(error)
    code = CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL)
    metadata = (("retry-after", headers["Retry-After"]),) if "Retry-After" in headers else ()
    return code, body["error"]["message"][:MAX_DETAILS], metadata
