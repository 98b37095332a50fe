"""The one door to a model: a URL gives a client for it, a folder or .gguf file a client for a model in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from lianlu.core import console, machine
from lianlu.core.errors import ConfigError, DataError, RequestError

if TYPE_CHECKING:
    import torch

    from lianlu.client.base import Client
    from lianlu.engine.config import EngineConfig
    from lianlu.engine.engine import Engine
    from lianlu.model.config import ModelConfig
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
    device: str = "auto",
) -> Client:
    """A client for `target`: an http(s) URL (`model` says which of its models), a model folder or a .gguf file.

    `adapter` is a folder with a LoRA adapter that is merged into the weights. `config` overrules `precision`. `device` is
    "cpu", "cuda", or "auto" for a GPU where there is one.
    Raises: DataError if there is no model at `target`; RequestError if a URL is given an adapter or does not answer.
    """
    if str(target).startswith(("http://", "https://")):
        if adapter is not None:
            raise RequestError(f"an adapter cannot be put on {target} from here", hint="start that server with the adapter")
        from lianlu.client.openai import OpenAIClient

        return OpenAIClient(str(target), model)
    from lianlu.engine.local import LocalClient

    return LocalClient(open_engine(target, adapter, precision, config, device=device), Path(target).name)


def open_engine(
    target: str | Path,
    adapter: str | Path | None = None,
    precision: Precision = "float32",
    config: EngineConfig | None = None,
    adapters: Mapping[str, str | Path] = MappingProxyType({}),
    device: str = "auto",
) -> Engine:
    """Load weights, adapters and tokenizer of the model at `target` and build an engine.

    `adapter` is merged into the weights; `adapters` are put beside them, each for the requests that name it. `device` is
    "cpu", "cuda", or "auto" for a GPU where there is one.
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
    place = torch_device(device)
    merged = None if adapter is None else Path(adapter)
    draft = config.speculation.model if isinstance(config.speculation, DraftSpeculation) else None

    def read() -> Weights:
        plain = config.model_copy(update={"context": None, "rope": None})
        return read_model(path, config, merged, place), None if draft is None else read_model(draft, plain, device=place)

    tokenizer = Tokenizer.load(path)
    source = Source(read, [one for one in (path, merged, draft) if one is not None])
    model, small = source.read()
    engine = Engine(model, tokenizer, config, small)
    engine.source = source
    for name, folder in adapters.items():
        engine.adapters.load(name, folder)
    return engine


def read_model(path: Path, config: EngineConfig, adapter: Path | None = None, device: torch.device | str = "cpu") -> Decoder:
    """The model at `path` as `config` runs it, with `adapter` merged into it, ready for an engine.

    Weights are read, merged and quantised layer by layer. Raises: DataError for files that cannot be read; ConfigError for
    a context or a quantisation that the model cannot have.
    """
    from lianlu.model.load import load_model, read_config
    from lianlu.model.lora import read_adapter
    from lianlu.model.packed import pack_linears
    from lianlu.model.quantized import Int8Linear

    shape = rescaled(read_config(path), config)
    model = load_model(
        path,
        torch_dtype(config.dtype, device),
        device,
        None if config.quant == "none" else config.quant,
        shape,
        None if adapter is None else read_adapter(shape, adapter),
    )
    if config.quant == "int4" and any(isinstance(module, Int8Linear) for module in model.modules()):
        console.warn(f"the weights of {path} are int8 and stay so; quant = int4 takes the plain model")
    pack_linears(model)
    return model


def rescaled(shape: ModelConfig, config: EngineConfig) -> ModelConfig:
    """The shape of a model with the rotary positions that `config` asks for. Raises: ConfigError for too long a context."""
    from lianlu.engine.limits import longest_sequence, trained_length

    if config.rope is not None:
        shape = shape.model_copy(update={"rope_scaling": config.rope})
    if longest_sequence(shape, config) > trained_length(shape):
        console.warn(f"context {config.context} goes beyond the {trained_length(shape)} tokens of rope.factor: raise it")
    return shape


def torch_device(name: str) -> torch.device:
    """Where to compute; auto: a GPU where there is one, else the processor. Raises: ConfigError for what is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no kind of device {name!r}", hint="use cpu, cuda, cuda:1 ... or auto") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"models do not run on {name!r}", hint="use cpu, cuda, cuda:1 ... or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no GPU {name!r} here", hint="use cpu or auto; `lianlu doctor` shows what there is")
    return device


def torch_dtype(precision: Precision, device: torch.device | str = "cpu") -> torch.dtype:
    """The numbers to compute in; auto: bfloat16 on a GPU and where the processor has instructions for it, else float32."""
    import torch

    if precision == "auto":
        has_half = torch.device(device).type == "cuda" or machine.cpu_flags() & BFLOAT16_FLAGS
        return torch.bfloat16 if has_half else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
