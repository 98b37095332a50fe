"""Where and how models are served: one frozen table. What it says about a model is an `EngineConfig` inside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from lianlu.core.config import Config
from lianlu.engine.config import EngineConfig
from lianlu.serve.keys import Keys, read_keys
from lianlu.serve.service import Limits

ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class ServeConfig(Config):
    """Where and how a model is served."""

    name: str = ""
    """The model's name in the API; by default the name of its file or folder."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the gRPC API; 0 takes a free one, None: no gRPC."""
    merge: Path | None = None
    """A LoRA adapter that is merged into the model's weights."""
    adapters: dict[str, Path] = Field(default_factory=dict)
    """LoRA adapters that are asked for by a name of their own."""
    engine: EngineConfig = EngineConfig()
    """How the model is run, and later ones unless they are loaded with other settings."""
    api_key: str | None = None
    """Clients have to send this key, or one of `api_keys`."""
    api_keys: Path | None = None
    """A TOML file of [[keys]] tables: name, key or key_sha256, limits, models."""
    admin_key: str | None = None
    """Key for loading and unloading models, sleep, and other people's /debug/why; None: nobody may."""
    tls_cert: Path | None = None
    """Certificate (with its chain) in PEM form; the server then speaks https."""
    tls_key: Path | None = None
    """The certificate's private key in PEM form, not encrypted."""
    cors_origins: list[str] = Field(default_factory=list)
    """Origins whose pages may ask from a browser, such as https://example.org; "*" for all."""
    metrics_public: bool = False
    """Whether /metrics needs no key although there are keys."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 16_000_000
    """Longest request body."""
    max_recent: Annotated[int, Field(ge=0)] = 1000
    """Requests that /debug/why remembers."""
    drain_s: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that running requests get to finish when the server is stopped."""

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, values: list[str]) -> list[str]:
        for value in values:
            if not ORIGIN.fullmatch(value):
                raise ValueError(f"{value!r} is no origin; write scheme, host and port alone, such as https://example.org:8443")
        return values

    @field_validator("api_key", "admin_key")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the key is empty")
        return value

    @model_validator(mode="after")
    def _both_or_none(self) -> ServeConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both tls_cert and tls_key")
        return self

    @property
    def is_open(self) -> bool:
        """Whether everybody who reaches the port from another machine may use the model."""
        return self.host not in LOCAL_HOSTS and self.api_key is None and self.api_keys is None

    def keys(self) -> Keys:
        """The callers this server knows. Raises: ConfigError for a file that cannot be read and for keys given twice."""
        return Keys.of(self.api_key, read_keys(self.api_keys) if self.api_keys else (), self.admin_key)

    def limits(self) -> Limits:
        """What clients may do."""
        return Limits(max_body_bytes=self.max_body_bytes, metrics_public=self.metrics_public, max_recent=self.max_recent)
