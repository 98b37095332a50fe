"""Who asks: API keys, and what each of them may do.

The front of the application finds the caller by the key that was sent and puts it into the request's scope
(`caller_of`). Keys are compared as SHA-256 digests in constant time and are kept nowhere as text; the prefix cache of one
key is closed to the others, through a `salt` that is made from the key and so survives a restart.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from lianlu.serve.failures import ApiError

_HINT = "send it as Authorization: Bearer KEY"


@dataclass
class Caller:
    """Somebody who may ask; `models` None: for every model."""

    name: str = ""
    salt: str = ""
    models: Sequence[str] | None = None
    is_admin: bool = False

    def may_use(self, model: str) -> bool:
        """Whether this caller may ask the model or adapter of that name."""
        return self.models is None or model in self.models

    def charge(self, num_tokens: int) -> None:
        """Take note of tokens that were used."""


def digest_of(key: str) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()


@dataclass
class Keys:
    """Callers by the digest of their key; with none, everybody is `anyone`."""

    callers: dict[bytes, Caller] = field(default_factory=dict)
    anyone: Caller = field(default_factory=Caller)

    @classmethod
    def of(cls, api_key: str | None) -> Keys:
        """The keys of a server that knows one key, or none."""
        if api_key is None:
            return cls()
        digest = digest_of(api_key)
        return cls({digest: Caller("key", hashlib.sha256(b"salt" + digest).hexdigest()[:32])})

    def caller(self, authorization: str) -> Caller:
        """The caller behind a header "Bearer KEY". Raises: ApiError (401)."""
        if not self.callers:
            return self.anyone
        scheme, _, key = authorization.partition(" ")
        given, found = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest(), None
        for digest, caller in self.callers.items():
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None or scheme.lower() != "bearer":
            raise ApiError("the API key is missing or wrong", status=401, hint=_HINT, code="invalid_api_key")
        return found


def caller_of(request: Request) -> Caller:
    """Who sent a request; the front has put it there."""
    found = request.scope["lianlu.caller"]
    assert isinstance(found, Caller)
    return found
