"""`lianlu serve`: takes the port, loads the model, answers until it is told to stop, then lets what runs finish.

The port is taken first, so that a wrong one is known before a model is loaded; until the model is there, the server
answers 503 ("loading"). On SIGINT or SIGTERM it refuses new requests, finishes those that run within `drain_s`, and ends
with 0; a second signal ends it at once. `running_server` does the same in a thread, for tests and for recipes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from lianlu.core import console
from lianlu.core.config import validate
from lianlu.core.errors import ConfigError
from lianlu.serve import loading
from lianlu.serve.config import ServeConfig
from lianlu.serve.server import Server

BACKLOG = 2048


def serve(model: Path, **settings: Any) -> None:
    """Serve a model until SIGINT or SIGTERM; `settings` are the fields of `ServeConfig`.

    Raises: ConfigError for a setting or a port that cannot be used; DataError for a model that cannot be read.
    """
    config = validate(ServeConfig, settings)
    if config.is_open:
        console.warn(f"everybody who reaches {config.host} may use the model; --api-key asks for a key")
    with bind(config.host, config.port) as listener:
        server = Server(model, config, listener)
        asyncio.run(server.run(on_ready=lambda: _tell_ready(server), signals=True))
    console.info("stopped")
    if loading.is_under_way():
        _leave_at_once()


def _leave_at_once() -> None:
    """End the process while a thread reads a model: it cannot be stopped, and Python's own end aborts under native code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _tell_ready(server: Server) -> None:
    for line in server.described():
        console.out(line)


@contextlib.contextmanager
def running_server(model: Path, **settings: Any) -> Iterator[str]:
    """A server in a thread of this process; yields its base URL (without /v1) once it is ready, and drains it in the end.

    `settings` are the fields of `ServeConfig`; the port is a free one unless given. Raises: as `serve`.
    """
    config = validate(ServeConfig, {"port": 0} | settings)
    with bind(config.host, config.port) as listener:
        server = Server(model, config, listener)
        ready: Future[None] = Future()
        thread = threading.Thread(target=_run_in_thread, args=(server, ready), name="lianlu-serve", daemon=True)
        thread.start()
        try:
            ready.result()
            yield server.url
        finally:
            server.stop()
            thread.join()


def _run_in_thread(server: Server, ready: Future[None]) -> None:
    try:
        asyncio.run(server.run(on_ready=lambda: ready.set_result(None)))
    except BaseException as error:
        if ready.done():
            console.error(f"the server broke down: {error}")
        else:
            ready.set_exception(error)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: ConfigError if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"there is no address {host!r} to listen on", hint="use 127.0.0.1, or 0.0.0.0 for all") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _bind_error(host, port, error) from error
    return listener


def _bind_error(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} on {host} is in use", hint="choose another with --port, or --port 0 for a free one")
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} is not for ordinary users", hint="choose a port above 1023")
    return ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", hint="use 127.0.0.1, or 0.0.0.0 for all")
