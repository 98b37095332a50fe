"""The life of a server: loading, ready, draining, gone. `main` starts it, `rest` answers in the meantime."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from lianlu.core import console
from lianlu.core.errors import ConfigError
from lianlu.engine.background import BackgroundEngine
from lianlu.serve.config import ServeConfig
from lianlu.serve.loading import in_thread
from lianlu.serve.models import Lora, Served
from lianlu.serve.rest import app
from lianlu.serve.service import Service
from lianlu.serve.tls import check_certificate

if TYPE_CHECKING:
    from lianlu.serve.grpc.server import GrpcServer

KEEP_ALIVE_S = 75
CLOSE_S = 5
EXIT_AT_ONCE = 130


class Server:
    """One server: its socket, its service, and its way from loading over ready to drained."""

    def __init__(self, model: Path, config: ServeConfig, listener: socket.socket) -> None:
        """Raises: ConfigError for keys, names or a certificate that cannot be used."""
        if config.tls_cert is not None and config.tls_key is not None:
            check_certificate(config.tls_cert, config.tls_key)
        self._model, self._config, self._listener = model, config, listener
        served = Served(config.name or model.name, model)
        if served.name in config.adapters:
            raise ConfigError(f"the model and an adapter are both named {served.name!r}", hint="choose another name for one")
        self.service = Service({served.name: served}, config.limits(), config.keys(), config.engine)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
        scheme = "https" if config.tls_cert else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._grpc: GrpcServer | None = None

    async def run(self, on_ready: Callable[[], None], signals: bool = False) -> None:
        """Serve until `stop` is called or, with `signals`, SIGINT or SIGTERM comes. Raises: LianluError if loading fails."""
        self._loop = asyncio.get_running_loop()
        if signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._on_signal)
            console.info(f"loading {self._model.name}; {self.url} answers 503 until it is ready")
        web = _Uvicorn(_web_config(self.service, self._config))
        answering = asyncio.create_task(web.serve(sockets=[self._listener]))
        try:
            self._grpc = await self._serve_grpc()
            engine = await self._load()
            if engine is not None:
                on_ready()
                await self._stopped.wait()
                await self._drain()
        finally:
            self.service.stopping = True
            web.over.set()
            await answering
            if self._grpc is not None:
                await self._grpc.stop(CLOSE_S)
            self.service.close()

    def described(self) -> list[str]:
        """What is served where, in a few lines for people."""
        served, config = self.service.default, self._config
        fields = served.card_fields()
        how = f"{fields['precision']} arithmetic, {fields['quantization']} weights, {fields['kv_cache']} keys and values"
        lines = [
            f"ready: {self.url}/v1 serves {served.name!r}",
            f"  {how.replace('none weights', 'plain weights')}, context {fields['context_length']:,} tokens",
            f"  chat page: {self.url}/",
        ]
        if self.service.adapters:
            lines.append(f"  adapters: {', '.join(self.service.adapters)}")
        if self._grpc is not None:
            lines.append(f"  gRPC on port {self._grpc.port}")
        if config.engine.sessions:
            lines.append(f"  sessions are kept in {config.engine.sessions}")
        return lines

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

    async def _serve_grpc(self) -> GrpcServer | None:
        """The gRPC server, if one is asked for. Raises: MissingExtraError, ConfigError."""
        config = self._config
        if config.grpc_port is None:
            return None
        from lianlu.serve.grpc.server import serve_grpc

        tls = (config.tls_cert, config.tls_key) if config.tls_cert and config.tls_key else None
        return await serve_grpc(self.service, config.grpc_port, config.host, tls)

    async def _load(self) -> BackgroundEngine | None:
        """The engine, loaded beside the running server; None if it is told to stop meanwhile."""
        served = self.service.default
        config = self._config
        loading = in_thread(lambda: served.open(config.engine, config.merge, config.adapters))
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if loading.done():
            served.engine = loading.result()
            self.service.adapters = {name: Lora(name, path, served) for name, path in config.adapters.items()}
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


def _web_config(service: Service, config: ServeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app(service, config.cors_origins),
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
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
