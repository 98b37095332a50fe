"""The life of a server: loading, ready, draining, gone. `main` starts it, `rest` answers in the meantime."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, TypeVar

import uvicorn
from pydantic import Field

from lianlu.core import console
from lianlu.core.config import Config
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.serve.keys import Keys
from lianlu.serve.models import Served
from lianlu.serve.rest import app
from lianlu.serve.service import Limits, Service

KEEP_ALIVE_S = 75
CLOSE_S = 5
EXIT_AT_ONCE = 130
T = TypeVar("T")


class ServeConfig(Config):
    """Where and how a model is served."""

    name: str = ""
    """The model's name in the API; by default the name of its file or folder."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    merge: Path | None = None
    """A LoRA adapter that is merged into the model's weights."""
    adapters: dict[str, Path] = Field(default_factory=dict)
    """LoRA adapters that are asked for by a name of their own."""
    engine: EngineConfig = EngineConfig()
    """How the model is run."""
    api_key: str | None = None
    """Clients have to send this key."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 16_000_000
    """Longest request body."""
    drain_s: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that running requests get to finish when the server is stopped."""


class Server:
    """One server: its socket, its service, and its way from loading over ready to drained."""

    def __init__(self, model: Path, config: ServeConfig, listener: socket.socket) -> None:
        self._model, self._config, self._listener = model, config, listener
        served = Served(config.name or model.name, model)
        self.service = Service(
            {served.name: served}, Limits(max_body_bytes=config.max_body_bytes), Keys.of(config.api_key), config.engine
        )
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    async def run(self, on_ready: Callable[[], None], signals: bool = False) -> None:
        """Serve until `stop` is called or, with `signals`, SIGINT or SIGTERM comes. Raises: LianluError if loading fails."""
        self._loop = asyncio.get_running_loop()
        if signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._on_signal)
            console.info(f"loading {self._model.name}; {self.url} answers 503 until it is ready")
        web = _Uvicorn(_web_config(self.service))
        answering = asyncio.create_task(web.serve(sockets=[self._listener]))
        try:
            engine = await self._load()
            if engine is not None:
                on_ready()
                await self._stopped.wait()
                await self._drain()
        finally:
            self.service.stopping = True
            web.over.set()
            await answering
            self.service.close()

    def stop(self) -> None:
        """Begin to stop; legal from any thread and more than once."""
        if self._loop is None or self._loop.is_closed():
            self._stopped.set()
        else:
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _on_signal(self) -> None:
        if self._stopped.is_set():
            os._exit(EXIT_AT_ONCE)
        self._stopped.set()

    async def _load(self) -> BackgroundEngine | None:
        """The engine, loaded beside the running server; None if it is told to stop meanwhile."""
        served = self.service.default
        loading = _in_thread(lambda: served.open(self._config.engine, self._config.merge))
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if loading.done():
            served.engine = loading.result()
        return served.engine

    async def _drain(self) -> None:
        """Refuse new requests and let the running ones finish, on all models at one time."""
        self.service.stopping = True
        stats = self.service.load()
        if left := stats["num_running"] + stats["num_queued"]:
            requests = "1 request" if left == 1 else f"{left} requests"
            within = console.format_seconds(self._config.drain_s)
            console.info(f"stopping: {requests} may finish within {within}; a second signal ends at once")
        engines = [served.engine for served in self.service.models.values() if served.engine is not None]
        finished = await asyncio.gather(*(asyncio.to_thread(engine.drain, self._config.drain_s) for engine in engines))
        if not all(finished):
            console.warn("some requests did not finish in time and were given up")


def _web_config(service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        app(service),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
    )


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.over = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone; `Server` handles them."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self.over.wait()


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run `work` in a thread that does not keep the process alive."""
    future: Future[T] = Future()

    def body() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, name="lianlu-load", daemon=True).start()
    return asyncio.wrap_future(future)
