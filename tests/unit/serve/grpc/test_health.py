"""The standard health service: Check and Watch, from loading over ready to stopping."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from lianlu.engine.background import BackgroundEngine
from lianlu.serve.grpc.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from lianlu.serve.keys import Keys
from lianlu.serve.service import Service

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
NAME = "lianlu.v1.Engine"


def methods(channel: grpc.Channel) -> tuple[Any, Any]:
    """Check and Watch as a client of the standard service has them."""
    write, read = HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    check = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=write, response_deserializer=read)
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", request_serializer=write, response_deserializer=read)
    return check, watch


def test_check_follows_the_state_and_needs_no_key(serving: Callable[..., Service], tiny: BackgroundEngine, start: Any) -> None:
    service = serving(engine=None, keys=Keys.of("secret"))
    with start(service) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        check, _ = methods(channel)
        for engine, stopping, status in ((None, False, NOT_SERVING), (tiny, False, SERVING), (tiny, True, NOT_SERVING)):
            service.default.engine, service.stopping = engine, stopping
            for name in ("", NAME):
                assert check(HealthCheckRequest(service=name)).status == status
        with pytest.raises(grpc.RpcError) as caught:
            check(HealthCheckRequest(service="lianlu.v1.Other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_watch_tells_every_change_and_ends_with_the_server(
    serving: Callable[..., Service], tiny: BackgroundEngine, start: Any
) -> None:
    service = serving(engine=None)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start(service, grace_s=10))
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        _, watch = methods(channel)
        news = watch(HealthCheckRequest(service=NAME))
        assert next(news).status == NOT_SERVING
        service.default.engine = tiny
        assert next(news).status == SERVING
        service.stopping = True
        assert next(news).status == NOT_SERVING
        other = watch(HealthCheckRequest(service="lianlu.v1.Other"))
        assert next(other).status == HealthCheckResponse.SERVICE_UNKNOWN
        service.stopping = False
        assert next(news).status == SERVING
    with channel:
        assert next(news).status == NOT_SERVING
        with pytest.raises(StopIteration):
            next(news)
