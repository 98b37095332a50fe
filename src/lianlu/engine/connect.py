"""The one door to a model: a URL gives a client for it, a folder or .gguf file a client for a model in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lianlu.core import machine
from lianlu.core.errors import DataError, RequestError

if TYPE_CHECKING:
    import torch

    from lianlu.client.base import Client
    from lianlu.engine.config import EngineConfig
    from lianlu.engine.engine import Engine

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
) -> Engine:
    """Load weights, adapter and tokenizer of the model at `target` and build an engine. Raises: DataError, ConfigError."""
    from lianlu.engine.config import EngineConfig
    from lianlu.engine.engine import Engine
    from lianlu.model.load import load_model
    from lianlu.model.packed import pack_linears
    from lianlu.tokenizer.tokenizer import Tokenizer

    path = Path(target)
    if not path.exists():
        raise DataError(f"there is no model at {path}", hint="give a folder, a .gguf file or a URL; `lianlu pull` fetches models")
    config = config or EngineConfig(dtype=precision)
    tokenizer = Tokenizer.load(path)
    model = load_model(path, dtype=torch_dtype(config.dtype))
    if adapter is not None:
        from lianlu.model.lora import load_adapter, merge_adapter

        load_adapter(model, Path(adapter))
        merge_adapter(model)
    pack_linears(model)
    return Engine(model, tokenizer, config)


def torch_dtype(precision: Precision) -> torch.dtype:
    """The numbers to compute in; auto: bfloat16 where the processor has instructions for it, else float32."""
    import torch

    if precision == "auto":
        return torch.bfloat16 if machine.cpu_flags() & BFLOAT16_FLAGS else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
