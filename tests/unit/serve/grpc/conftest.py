"""A gRPC server over the tiny engine, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import grpc
import pytest

from lianlu.engine.background import BackgroundEngine
from lianlu.serve.grpc.server import GrpcServer, serve_grpc
from lianlu.serve.grpc.v1.engine_pb2_grpc import EngineStub
from lianlu.serve.service import Service

WAIT_S = 20
Start = Callable[..., AbstractContextManager[GrpcServer]]


@contextlib.contextmanager
def running(service: Service, grace_s: float = 0, **options: Any) -> Iterator[GrpcServer]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(serve_grpc(service, 0, **options), loop).result(WAIT_S)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(grace_s), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def start() -> Start:
    """Run a gRPC server over a service for the length of a `with` block."""
    return running


@pytest.fixture
def service(serving: Callable[..., Service], tiny: BackgroundEngine) -> Service:
    return serving(tiny)


@pytest.fixture
def server(service: Service) -> Iterator[GrpcServer]:
    with running(service) as started:
        yield started


@pytest.fixture
def channel(server: GrpcServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as made:
        yield made


@pytest.fixture
def stub(channel: grpc.Channel) -> EngineStub:
    return EngineStub(channel)


@pytest.fixture
def at_rest(tiny: BackgroundEngine) -> Callable[[], bool]:
    """Whether the engine comes to rest: nothing runs or waits, and no block is in use."""

    def wait() -> bool:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            stats = tiny.stats()
            if stats.num_running == stats.num_queued == stats.used_blocks == 0:
                return True
            time.sleep(0.01)
        return False

    return wait
