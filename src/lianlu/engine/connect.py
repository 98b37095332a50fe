"""The one door to a model: a URL gives a client for it, a folder or .gguf file a client for a model in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from lianlu.core import machine
from lianlu.core.errors import DataError, RequestError

if TYPE_CHECKING:
    import torch

    from lianlu.client.base import Client
    from lianlu.engine.config import EngineConfig
    from lianlu.engine.engine import Engine
    from lianlu.model.decoder import Decoder

Precision = Literal["float32", "bfloat16", "auto"]
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def connect(
    target: str | Path,
    adapter: str | Path | None = None,
    precision: Precision = "float32",
    *,
    model: str = "",
    config: EngineConfig | None = None,
) -> Client:
    """A client for `target`: an http(s) URL (`model` says which of its models), a model folder or a .gguf file.

    `adapter` is a folder with a LoRA adapter that is merged into the weights. `config` overrules `precision`.
    Raises: DataError if there is no model at `target`; RequestError if a URL is given an adapter or does not answer.
    """
    if str(target).startswith(("http://", "https://")):
        if adapter is not None:
            raise RequestError(f"an adapter cannot be put on {target} from here", hint="start that server with the adapter")
        from lianlu.client.openai import OpenAIClient

        return OpenAIClient(str(target), model)
    from lianlu.engine.local import LocalClient

    return LocalClient(open_engine(target, adapter, precision, config), Path(target).name)


def open_engine(
    target: str | Path,
    adapter: str | Path | None = None,
    precision: Precision = "float32",
    config: EngineConfig | None = None,
    adapters: Mapping[str, str | Path] = MappingProxyType({}),
) -> Engine:
    """Load weights, adapters and tokenizer of the model at `target` and build an engine.

    `adapter` is merged into the weights; `adapters` are put beside them, each for the requests that name it.
    Raises: DataError, ConfigError; RequestError for a name that an adapter cannot have.
    """
    from lianlu.engine.config import DraftSpeculation, EngineConfig
    from lianlu.engine.engine import Engine
    from lianlu.engine.sleep import Source, Weights
    from lianlu.tokenizer.tokenizer import Tokenizer

    path = Path(target)
    if not path.exists():
        raise DataError(f"there is no model at {path}", hint="give a folder, a .gguf file or a URL; `lianlu pull` fetches models")
    config = config or EngineConfig(dtype=precision)
    merged = None if adapter is None else Path(adapter)
    draft = config.speculation.model if isinstance(config.speculation, DraftSpeculation) else None

    def read() -> Weights:
        return read_model(path, config, merged), None if draft is None else read_model(draft, config)

    tokenizer = Tokenizer.load(path)
    source = Source(read, [one for one in (path, merged, draft) if one is not None])
    model, small = source.read()
    engine = Engine(model, tokenizer, config, small)
    engine.source = source
    for name, folder in adapters.items():
        engine.adapters.load(name, folder)
    return engine


def read_model(path: Path, config: EngineConfig, adapter: Path | None = None) -> Decoder:
    """The model at `path` as `config` runs it, with `adapter` merged into it, ready for an engine. Raises: DataError."""
    from lianlu.model.load import load_model
    from lianlu.model.lora import load_adapter, merge_adapter
    from lianlu.model.packed import pack_linears

    model = load_model(path, dtype=torch_dtype(config.dtype))
    if adapter is not None:
        load_adapter(model, adapter)
        merge_adapter(model)
    pack_linears(model)
    return model


def torch_dtype(precision: Precision) -> torch.dtype:
    """The numbers to compute in; auto: bfloat16 where the processor has instructions for it, else float32."""
    import torch

    if precision == "auto":
        return torch.bfloat16 if machine.cpu_flags() & BFLOAT16_FLAGS else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
