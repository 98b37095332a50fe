"""grpc.health.v1.Health: whether requests are taken, once (Check) and whenever it changes (Watch).

The server as a whole ("") and lianlu.v1.Engine are serving while the default model is ready; while it is loaded, asleep, or
about to stop they are not. No key is needed. A change is seen within `LOOK_S`, and nothing is looked at while nobody watches.
Source: the GRPC Health Checking Protocol (grpc/grpc, doc/health-checking.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

from lianlu.serve.grpc.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from lianlu.serve.service import Service

NAME = "grpc.health.v1.Health"
LOOK_S = 0.25


class Health:
    """The health of a server; `over` is set when it stops, which ends all watches."""

    def __init__(self, service: Service, names: frozenset[str]) -> None:
        self._service = service
        self._names = names | {""}
        self.over = asyncio.Event()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Check and Watch for grpcio."""
        read, write = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, read, write),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, read, write),
        }

    def status(self, name: str) -> HealthCheckResponse.ServingStatus:
        """How a service is now."""
        if name not in self._names:
            return HealthCheckResponse.SERVICE_UNKNOWN
        is_ready = self._service.state == "ready" and not self.over.is_set()
        return HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING

    async def check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        """How a service is."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return HealthCheckResponse(status=self.status(request.service))

    async def watch(self, request: HealthCheckRequest, context: Any) -> None:
        """How a service is, and every change of it, until the server or the client stops."""
        shown = None
        while True:
            is_over = self.over.is_set()
            if (status := self.status(request.service)) != shown:
                await context.write(HealthCheckResponse(status=status))
                shown = status
            if is_over:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), LOOK_S)
