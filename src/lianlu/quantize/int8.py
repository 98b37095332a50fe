"""Stage quantize: int8 weights with a quality card.

In: a checkpoint (folder or .gguf) and held-out conversations or documents. Out: a checkpoint whose linear layers are int8
with one scale for each output channel (weights only, rounded to nearest; the embedding and the output layer keep 16 or 32
bits), and card.json: perplexity, top-1 agreement and KL divergence against the original, and sizes. What the card says is
measured on the very weights that are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lianlu.core.config import Checkpoint, Config, Input
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.quantize.forecast import rewrite_forecast

if TYPE_CHECKING:
    from lianlu.model.decoder import Decoder


class QuantizeConfig(Config):
    """int8 weights with a quality card."""

    model: Checkpoint
    """The model to quantise."""
    data: Annotated[str, Input(("conversations", "documents"))]
    """What quality is measured on: conversations (their held-out part) or documents."""
    rest: Literal["bfloat16", "float32"] = "bfloat16"
    """Number type of what is not quantised: embedding, output layer, norms."""
    max_tokens: int = Field(default=8192, gt=0)
    """Tokens the card is measured on."""
    max_length: int = Field(default=1024, gt=1)
    """Longest sequence among them; longer ones are cut."""


def estimate(config: QuantizeConfig) -> Estimate:
    """A forecast from the size of the model."""
    return rewrite_forecast(config.model, passes=3, tokens=config.max_tokens)


def run(config: QuantizeConfig, out: Output) -> None:
    """Quantise, judge, and write checkpoint and card. Raises: DataError for a model or data that cannot be read."""
    import torch

    from lianlu.core import console
    from lianlu.core.errors import ConfigError
    from lianlu.core.files import write_json
    from lianlu.model.load import load_model
    from lianlu.model.quantized import is_quantized, quantize_linears
    from lianlu.model.save import save_model
    from lianlu.quantize.card import compare, snapshot, targets
    from lianlu.quantize.sequences import judged_sequences
    from lianlu.tokenizer.tokenizer import Tokenizer

    with console.progress("quantize", total=4, unit="part") as bar:
        tokenizer = Tokenizer.load(config.model)
        sequences = judged_sequences(Path(config.data), tokenizer, config.max_length, config.max_tokens)
        model = load_model(config.model, torch.float32).eval()
        if is_quantized(model):
            raise ConfigError(f"{config.model} is quantised already", hint="name the model it was made from")
        float32_bytes = weight_bytes(model)
        before = snapshot(model, sequences)
        bar.advance()
        quantize_linears(model)
        rest = getattr(torch, config.rest)
        bytes_after = weight_bytes(model.to(rest))
        bar.advance()
        after = snapshot(model.float(), sequences)
        bar.advance()
        save_model(model.to(rest), out.path)
        tokenizer.save(out.path)
        bar.advance()
    card: dict[str, Any] = compare(before, after, targets(sequences))
    card.update(float32_bytes=float32_bytes, bytes=bytes_after, size_ratio=bytes_after / float32_bytes)
    write_json(out.path / "card.json", {"method": "lianlu-int8", "rest": config.rest, **card})
    out.figures.update(card)


def weight_bytes(model: Decoder) -> int:
    """Bytes of weights and buffers in memory, tied ones once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
