"""The table of a server: what cannot be is said by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError
from lianlu.serve.config import ServeConfig


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"tls_cert": "a.pem"}, "both tls_cert and tls_key"),
        ({"tls_key": "a.pem"}, "both tls_cert and tls_key"),
        ({"cors_origins": ["example.org"]}, "is no origin"),
        ({"cors_origins": ["https://example.org/"]}, "is no origin"),
        ({"cors_origins": ["https://a b"]}, "is no origin"),
        ({"api_key": " "}, "the key is empty"),
        ({"admin_key": ""}, "the key is empty"),
        ({"engine": {"kv": "int3"}}, "engine.kv"),
        ({"grpc_port": 70000}, "grpc_port"),
        ({"max_queued": 3}, "unknown field max_queued"),
    ],
)
def test_wrong_tables(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(ServeConfig, table)
    assert said in caught.value.message


def test_good_tables() -> None:
    validate(ServeConfig, {"cors_origins": ["*", "https://a.org:8443", "http://localhost:3000"]})
    config = validate(ServeConfig, {"tls_cert": "a", "tls_key": "b", "adapters": {"x": "y"}, "max_recent": 5})
    assert (config.tls_cert, config.adapters) == (Path("a"), {"x": Path("y")})
    assert config.limits().max_recent == 5


@pytest.mark.parametrize(
    ("table", "is_open"),
    [
        ({}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "api_key": "k"}, False),
        ({"host": "0.0.0.0", "api_keys": "k.toml"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0", "admin_key": "k"}, True),
    ],
)
def test_whether_strangers_may_use_it(table: dict[str, Any], is_open: bool) -> None:
    assert validate(ServeConfig, table).is_open is is_open
