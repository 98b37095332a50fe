"""Sleep and wake: an engine that gives its memory back and later reads its weights again.

Asleep, an engine holds no weights and no keys and values; the prefix cache is lost, counters, tokenizer and the names of
adapters stay. A model of the same shape without numbers stands in for the weights, so that what asks for the config
still gets it. Requests are refused (503) until `wake`, after which replies are what they were, to the bit: weights come
from the same files by the same way (merged adapter, quantisation, packing), and files that have changed in the meantime
are refused, because replies would then change without anybody having asked for it. If waking fails, the engine stays
asleep and can be woken again. Both belong to the engine's thread (`BackgroundEngine.call`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lianlu.core import machine
from lianlu.core.errors import ConfigError, DataError, RequestError
from lianlu.model.decoder import Decoder

if TYPE_CHECKING:
    from lianlu.engine.engine import Engine

Weights = tuple[Decoder, Decoder | None]
"""The model, and the one that proposes tokens if there is one."""
Stamps = dict[Path, tuple[int, int]]


class Source:
    """How the weights of an engine are read, as often as needed, from files that must not change."""

    def __init__(self, read: Callable[[], Weights], paths: Iterable[Path]) -> None:
        """`paths` are the files and folders that `read` looks at."""
        self._read = read
        self._paths = tuple(path.absolute() for path in paths)
        self._stamps: Stamps | None = None

    def read(self) -> Weights:
        """The weights. Raises: DataError if they cannot be read, or are not those of the first time."""
        stamps = _stamps(self._paths)
        if self._stamps is not None and stamps != self._stamps:
            changed = sorted(path for path in stamps.keys() | self._stamps.keys() if stamps.get(path) != self._stamps.get(path))
            hint = "put the files back, or open the model anew"
            raise DataError(f"{changed[0]} is not what it was when the model was opened", hint=hint)
        self._stamps = stamps
        return self._read()


def _stamps(paths: Iterable[Path]) -> Stamps:
    """Size and time of change of the files that make up models and adapters; what is not there has none."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.glob("*")) if _counts(file, path)]
    states = [(file, file.stat()) for file in files]
    return {file: (state.st_size, state.st_mtime_ns) for file, state in states}


def _counts(file: Path, path: Path) -> bool:
    """Whether a file in the folder `path`, or `path` itself, decides about weights."""
    named = file == path or file.suffix == ".safetensors" or file.name.endswith(("config.json", ".index.json"))
    return named and file.is_file()


def check_awake(engine: Engine) -> None:
    """Legal from any thread. Raises: RequestError (503)."""
    if engine.asleep:
        raise RequestError("the model is asleep", hint="wake it first", status=503)


def fall_asleep(engine: Engine) -> None:
    """Give the memory of weights, keys and values back; legal when asleep.

    Raises: RequestError (409) while requests run or wait; ConfigError if there are no files to read the weights from again.
    """
    if engine.asleep:
        return
    if engine.source is None:
        hint = "open it with open_engine, from a folder or a .gguf file"
        raise ConfigError("this engine cannot sleep: its model was not read from files", hint=hint)
    stats = engine.stats()
    if num_live := stats.num_running + stats.num_queued:
        hint = "wait until they have ended, or cancel them"
        raise RequestError(f"{num_live} requests are running or waiting", hint=hint, status=409)
    engine.asleep = True
    engine.adapters.release()
    engine.close()
    _hollow_out(engine)


def wake_up(engine: Engine) -> None:
    """Read the weights again; legal when awake. Raises: DataError if files are gone or changed; the engine sleeps on then."""
    if not engine.asleep:
        return
    assert engine.source is not None, "only an engine with a source falls asleep"
    model, draft = engine.source.read()
    try:
        engine.adapters.renew(model)
        engine.settle(model, draft)
    except BaseException:
        engine.adapters.release()
        _hollow_out(engine)
        raise
    engine.asleep = False


def _hollow_out(engine: Engine) -> None:
    """Put a model of the same config and dtype without numbers in the place of the weights."""
    with torch.device("meta"):
        hollow = Decoder(engine.model.config).to(engine.model.embed_tokens.weight.dtype)
    engine.settle(hollow, hollow)
    machine.release_memory()
    torch.cuda.empty_cache()
