"""Taking a port, and what can go wrong with it."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from lianlu.core.errors import ConfigError
from lianlu.serve.config import ServeConfig
from lianlu.serve.main import bind, running_server, serve
from lianlu.serve.server import Server


def test_port_zero_takes_a_free_one() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert Server(Path("folder/model"), ServeConfig(), listener).url == f"http://127.0.0.1:{port}"
        assert Server(Path("folder/model"), ServeConfig(host="0.0.0.0"), listener).url == f"http://127.0.0.1:{port}"
        assert Server(Path("folder/model"), ServeConfig(host="::"), listener).url == f"http://[::1]:{port}"
        assert Server(Path("folder/model"), ServeConfig(), listener).service.default.name == "model"


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for attempt in (lambda: bind("127.0.0.1", port), lambda: serve(Path("/nonexistent"), port=port)):
            with pytest.raises(ConfigError) as caught:
                attempt()
            assert caught.value.message == f"port {port} on 127.0.0.1 is in use"
            assert "--port 0" in caught.value.hint
            assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, "not for ordinary users"), (errno.EADDRNOTAVAIL, "cannot listen on")]
)
def test_other_refusals(monkeypatch: pytest.MonkeyPatch, number: int, said: str) -> None:
    def refuse(_socket: socket.socket, _address: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ConfigError, match=said):
        bind("127.0.0.1", 80)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "127.0.0.1.5"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        bind(host, 0)


@pytest.mark.parametrize(
    "settings", [{"prt": 1}, {"port": -1}, {"port": 65536}, {"max_body_bytes": 0}, {"engine": {"dtype": "int3"}}]
)
def test_wrong_settings_are_named(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))), running_server(Path("/nonexistent"), **settings):
        pass
