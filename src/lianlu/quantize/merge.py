"""Stage merge: a LoRA adapter into the weights of its model.

In: a checkpoint (folder or .gguf) and an adapter (ours or PEFT's). Out: a checkpoint with the tokenizer and the chat
template of the base. The sum is formed in fp32, because merging in bf16 loses part of a small update. What that does to the
model's answers is measured on a fixed text: logits with the adapter against logits of the weights that are written.

Shapes: T tokens, V vocab_size.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Literal

from lianlu.core.config import Adapter, Checkpoint, Config
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.quantize.forecast import rewrite_forecast

if TYPE_CHECKING:
    from torch import Tensor

    from lianlu.model.decoder import Decoder
    from lianlu.tokenizer.tokenizer import Tokenizer


class MergeConfig(Config):
    """An adapter into the weights of its model."""

    model: Checkpoint
    """The model the adapter was trained on."""
    adapter: Adapter
    """The adapter."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the merged weights on disk; bfloat16 halves them and rounds them."""


def estimate(config: MergeConfig) -> Estimate:
    """A forecast from the size of the model."""
    return rewrite_forecast(config.model, passes=3, tokens=200)


def run(config: MergeConfig, out: Output) -> None:
    """Merge, measure the difference, and write the checkpoint. Raises: DataError for a model and an adapter that do not fit."""
    import torch

    from lianlu.core import console
    from lianlu.model.config import num_parameters
    from lianlu.model.load import load_model
    from lianlu.model.lora import load_adapter, merge_adapter
    from lianlu.model.save import save_model
    from lianlu.tokenizer.tokenizer import Tokenizer

    with console.progress("merge", total=3, unit="part") as bar:
        tokenizer = Tokenizer.load(config.model)
        model = load_model(config.model, torch.float32)
        load_adapter(model, config.adapter)
        adapted_TV = probe_logits(model, tokenizer)
        bar.advance()
        merge_adapter(model)
        model.to(getattr(torch, config.dtype)).float()
        merged_TV = probe_logits(model, tokenizer)
        bar.advance()
        save_model(model.to(getattr(torch, config.dtype)), out.path)
        tokenizer.save(out.path)
        bar.advance()
    difference_TV = (adapted_TV - merged_TV).abs()
    out.figures.update(
        parameters=num_parameters(model.config),
        probe_tokens=len(adapted_TV),
        max_logit_difference=float(difference_TV.max()),
        mean_logit_difference=float(difference_TV.mean()),
        top1_agreement=float((adapted_TV.argmax(1) == merged_TV.argmax(1)).double().mean()),
    )


def probe_logits(model: Decoder, tokenizer: Tokenizer) -> Tensor:
    """logits_TV in fp32 over the fixed probe text."""
    import torch

    from lianlu.kernels.attention import PackedCausal

    text = resources.files("lianlu.quantize").joinpath("probe.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text)[: model.config.max_position_embeddings]
    with torch.no_grad():
        logits_TV: Tensor = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)]))
    return logits_TV.float()
