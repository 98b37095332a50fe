"""The adapters of an engine: loaded and unloaded by name while requests run.

Requests name an adapter (`Request.adapter`). What is computed under it is kept apart from all else in the prefix cache by
the digest of its content, so a name that comes to mean another adapter never meets old keys and values.

`load` reads and checks the files in the thread that calls it, which may be any, while the engine goes on; a folder that
cannot be read changes nothing. `unload` belongs to the engine's thread (`BackgroundEngine.call`). An adapter that a live
request uses, running or waiting, is not unloaded: the call is refused (409), so no request ever changes its weights
half way. `model.multi_lora` computes; here are the names, the rules, and what sleep needs.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from lianlu.core.errors import DataError, RequestError
from lianlu.model.decoder import Decoder
from lianlu.model.lora import Adapter, read_adapter
from lianlu.model.multi_lora import MultiLora, Span

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHOWN_NAMES = 10


@dataclass(frozen=True)
class Loaded:
    """Where an adapter came from, and the digest of what it computes."""

    path: Path
    digest: bytes


class Adapters:
    """The named adapters of one engine."""

    def __init__(self, model: Decoder, in_use: Callable[[], Iterable[str]] = tuple) -> None:
        """`in_use` gives the adapters of all live requests."""
        self._lora: MultiLora | None = MultiLora(model)
        self._config = model.config
        self._in_use = in_use
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}

    def load(self, name: str, path: Path | str) -> None:
        """Read the adapter in the folder `path` (PEFT's form) and serve it as `name`; legal from any thread.

        Raises: RequestError (400: no name, 409: the name is taken, 503: asleep); DataError that names the file.
        """
        self._check_free(name)
        adapter = read_adapter(self._config, path)
        loaded = Loaded(Path(path).absolute(), content_digest(adapter))
        with self._lock:
            self._check_free(name)
            assert self._lora is not None
            self._lora.add(name, adapter)
            self._loaded = {**self._loaded, name: loaded}

    def unload(self, name: str) -> None:
        """Forget an adapter and give its memory back; on the engine's thread, legal while asleep.

        Raises: RequestError (404: unknown, 409: a running or waiting request uses it).
        """
        with self._lock:
            self.check(name)
            users = sum(1 for used in self._in_use() if used == name)
            if users:
                hint = "wait until they have ended, or cancel them"
                raise RequestError(f"{users} requests are using the adapter {name}", hint=hint, status=409)
            self._loaded = {other: loaded for other, loaded in self._loaded.items() if other != name}
            if self._lora is not None:
                self._lora.remove(name)

    def names(self) -> tuple[str, ...]:
        """What is loaded, in the order of loading; legal from any thread."""
        return tuple(self._loaded)

    def path(self, name: str) -> Path:
        """The folder an adapter was read from. Raises: RequestError (404)."""
        self.check(name)
        return self._loaded[name].path

    def check(self, name: str) -> None:
        """Legal from any thread. Raises: RequestError (404) if there is no such adapter."""
        known = self._loaded
        if name not in known:
            shown = ", ".join(list(known)[:SHOWN_NAMES]) + (", ..." if len(known) > SHOWN_NAMES else "")
            hint = f"there are {shown}" if known else "this engine has no adapters: load one first"
            raise RequestError(f"there is no adapter {name!r}", hint=hint, status=404)

    def digest(self, name: str) -> bytes:
        """16 bytes that stand for what the adapter computes. Raises: RequestError (404)."""
        self.check(name)
        return self._loaded[name].digest

    def over(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        """Compute a batch whose rows, from the first on, have these adapters; on the engine's thread."""
        return self._awake().over(spans)

    def everywhere(self, name: str) -> AbstractContextManager[None]:
        """Compute with one adapter in all rows ("": none); on the engine's thread. Raises: RequestError (404)."""
        if name:
            self.check(name)
        return self._awake().everywhere(name)

    def release(self) -> None:
        """Let go of the model and of all updates; names, folders and digests stay."""
        with self._lock:
            self._lora = None

    def renew(self, model: Decoder) -> None:
        """Read all adapters again and put them on `model`.

        Raises: DataError if one is gone, damaged, or not what it was; nothing has changed then.
        """
        with self._lock:
            lora = MultiLora(model)
            for name, loaded in self._loaded.items():
                adapter = read_adapter(model.config, loaded.path)
                if content_digest(adapter) != loaded.digest:
                    hint = "unload it, wake the engine and load it again"
                    raise DataError(f"the adapter {name} in {loaded.path} is not what it was when it was loaded", hint=hint)
                lora.add(name, adapter)
            self._lora = lora

    def _awake(self) -> MultiLora:
        if self._lora is None:
            raise RequestError("the model is asleep", hint="wake it first", status=503)
        return self._lora

    def _check_free(self, name: str) -> None:
        if not NAME.fullmatch(name):
            hint = "up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
            raise RequestError(f"{name!r} cannot be the name of an adapter", hint=hint)
        self._awake()
        if name in self._loaded:
            raise RequestError(f"there is an adapter {name} already", hint="unload it first, or choose another name", status=409)


def content_digest(adapter: Adapter) -> bytes:
    """16 bytes that stand for what an adapter computes: layers, strengths and numbers, not names of files."""
    state = blake2b(digest_size=16)
    for path, layer in sorted(adapter.layers.items()):
        for piece, (a_RI, b_OR) in sorted(layer.updates.items()):
            state.update(repr((path, layer.layout, piece, layer.scaling[piece], a_RI.shape, b_OR.shape)).encode())
            state.update(a_RI.numpy().data)
            state.update(b_OR.numpy().data)
    return state.digest()
