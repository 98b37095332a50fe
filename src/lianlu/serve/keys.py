"""Who asks: API keys, what each of them may do, and how much of it.

The front of the application finds the caller by the key that was sent and puts it into the request's scope (`caller_of`);
the gRPC server does the same with its metadata. Keys are compared as SHA-256 digests in constant time and are kept nowhere
as text. The prefix cache of one key is closed to the others, through a `salt` that is made from the key and so survives a
restart. Limits are those of `limits`: requests and tokens a minute, and requests at one time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from starlette.requests import Request

from lianlu.core.config import Config, read_toml, validate
from lianlu.core.errors import ConfigError
from lianlu.serve.failures import ApiError
from lianlu.serve.limits import Quota

_HINT = "send it as Authorization: Bearer KEY"
ADMIN = "admin"
Name = Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]


class KeyConfig(Config):
    """One key of a file of keys: the key itself or its SHA-256 in hexadecimal, and what may be done with it."""

    name: Name
    """Stands for the key in logs and figures."""
    key: Annotated[str, Field(min_length=1)] | None = None
    """The key."""
    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """Its SHA-256, where the file shall not tell the key: `printf %s KEY | sha256sum`."""
    max_concurrent: Annotated[int, Field(gt=0)] | None = None
    """Requests at one time."""
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Requests a minute; up to that many may come at once."""
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Tokens a minute, of prompts and replies; charged when a reply has ended."""
    models: list[str] | None = None
    """Models and adapters that may be asked; None: all."""

    @model_validator(mode="after")
    def _one_of_both(self) -> KeyConfig:
        if (self.key is None) == (self.key_sha256 is None):
            raise ValueError(f"the key {self.name!r} needs either key or key_sha256")
        if self.name == ADMIN:
            raise ValueError(f"the name {ADMIN!r} is taken by the admin key")
        return self

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key."""
        return bytes.fromhex(self.key_sha256) if self.key_sha256 is not None else digest_of(self.key or "")


class KeyFile(Config):
    """A file of keys: [[keys]] tables."""

    keys: Annotated[list[KeyConfig], Field(min_length=1)]


@dataclass
class Caller:
    """Somebody who may ask; `models` None: for every model. `salt` closes its prefix cache to the others."""

    name: str = ""
    salt: str = ""
    models: frozenset[str] | None = None
    is_admin: bool = False
    quota: Quota = field(default_factory=Quota)

    def may_use(self, model: str) -> bool:
        """Whether this caller may ask the model or adapter of that name."""
        return self.models is None or model in self.models

    def charge(self, num_tokens: int) -> None:
        """Take note of tokens that were used."""
        self.quota.charge(num_tokens)


def digest_of(key: str) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _salt(digest: bytes) -> str:
    return hashlib.sha256(b"lianlu prefix cache " + digest).hexdigest()[:32]


@dataclass
class Keys:
    """Callers by the digest of their key; with none but the admin's, everybody is `anyone`."""

    callers: dict[bytes, Caller] = field(default_factory=dict)
    admin: tuple[bytes, Caller] | None = None
    anyone: Caller = field(default_factory=Caller)

    @classmethod
    def of(cls, api_key: str | None = None, entries: Iterable[KeyConfig] = (), admin_key: str | None = None) -> Keys:
        """The keys of a server: a single one, those of a file, the admin's. Raises: ConfigError if two of them are one."""
        callers: dict[bytes, Caller] = {}
        single = [] if api_key is None else [KeyConfig(name="key", key=api_key)]
        for entry in (*single, *entries):
            if entry.digest in callers or entry.name in {caller.name for caller in callers.values()}:
                raise ConfigError(f"the key {entry.name!r} is given twice", hint="give every key once, and its own name")
            quota = Quota(entry.requests_per_minute, entry.tokens_per_minute, entry.max_concurrent)
            models = None if entry.models is None else frozenset(entry.models)
            callers[entry.digest] = Caller(entry.name, _salt(entry.digest), models, quota=quota)
        if admin_key is None:
            return cls(callers)
        digest = digest_of(admin_key)
        if digest in callers:
            raise ConfigError("the admin key is the key of a client too", hint="choose another admin key")
        return cls(callers, (digest, Caller(ADMIN, _salt(digest), is_admin=True)))

    def caller(self, authorization: str) -> Caller:
        """The caller behind a header "Bearer KEY". Raises: ApiError (401)."""
        scheme, _, key = authorization.partition(" ")
        given, found = digest_of(key.strip()), None
        for digest, caller in (*self.callers.items(), *([self.admin] if self.admin else [])):
            if hmac.compare_digest(digest, given):
                found = caller
        if found is not None and scheme.lower() == "bearer":
            return found
        if not self.callers:
            return self.anyone
        raise ApiError("the API key is missing or wrong", status=401, hint=_HINT, code="invalid_api_key")

    def check_admin(self, caller: Caller) -> None:
        """Raises: ApiError (403) unless the admin asks."""
        if not caller.is_admin:
            hint = "send the admin key" if self.admin else "start the server with --admin-key to allow it"
            raise ApiError("this needs the admin key", status=403, hint=hint, code="admin_only")


def read_keys(path: Path) -> list[KeyConfig]:
    """The keys of a TOML file of [[keys]] tables. Raises: ConfigError that names the wrong field and never shows a key."""
    table = read_toml(path)
    try:
        return validate(KeyFile, table).keys
    except ConfigError as error:
        lines = [line.split(" (got ")[0] for line in error.message.splitlines()]
        raise ConfigError(f"{path}: " + "\n".join(lines), hint=f"fields of a key: {', '.join(KeyConfig.model_fields)}") from None


def caller_of(request: Request) -> Caller:
    """Who sent a request; the front has put it there."""
    found = request.scope["lianlu.caller"]
    assert isinstance(found, Caller)
    return found
