"""Stage merge: a LoRA adapter into the weights of its model.

In: a checkpoint (folder or .gguf) and an adapter (ours or PEFT's). Out: a checkpoint with the tokenizer and the chat
template of the base. The sum is formed in fp32, because merging in bf16 loses part of a small update. What that does to the
model's answers is measured on a fixed text: logits with the adapter against logits of the weights that are written.

A QLoRA adapter was trained on the weights as NF4 rounds them, and part of what it learnt makes up for that rounding. Merged
into the original weights it makes a model that was never trained or judged; merged into the rounded ones (as plain numbers
again) it is the very model that was. Both are measured against the adapter on what it was trained on; one is written.

Shapes: T tokens, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Mapping
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

Base = Literal["original", "nf4", "nf4-single"]


class MergeConfig(Config):
    """An adapter into the weights of its model."""

    model: Checkpoint
    """The model the adapter was trained on."""
    adapter: Adapter
    """The adapter."""
    base: Literal["auto", "original", "nf4"] = "auto"
    """The weights it is added to: the model's own, or as NF4 rounds them; auto takes those that the adapter was trained on."""
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
    from lianlu.model.save import save_model
    from lianlu.tokenizer.tokenizer import Tokenizer

    trained_on, base = bases(config)
    other: Base = trained_on if base == "original" else "original"
    found = {}
    with console.progress("merge", total=3 if other == base else 4, unit="part") as bar:
        tokenizer = Tokenizer.load(config.model)
        adapted = adapted_model(config, trained_on)
        adapted_TV = probe_logits(adapted, tokenizer)
        bar.advance()
        if other != base:
            found[other] = difference(adapted_TV, probe_logits(merged(adapted_model(config, other), config), tokenizer))
            bar.advance()
        model = merged(adapted if base == trained_on else adapted_model(config, base), config)
        found[base] = difference(adapted_TV, probe_logits(model, tokenizer))
        bar.advance()
        save_model(model.to(getattr(torch, config.dtype)), out.path)
        tokenizer.save(out.path)
        bar.advance()
    out.figures.update(parameters=num_parameters(model.config), probe_tokens=len(adapted_TV), **found[base])
    if other != base:
        out.figures.update(trained_on=trained_on, base=base, differences=found, nearest=nearest(found))
        _tell(found, trained_on, base)


def bases(config: MergeConfig) -> tuple[Base, Base]:
    """What the adapter was trained on, and what it goes into; one that does not say the former was trained on the latter."""
    from lianlu.model.lora_files import trained_base

    known = trained_base(config.adapter)
    match known:
        case "nf4" | "nf4-single":
            return known, "original" if config.base == "original" else known
    if config.base == "auto":
        return "original", "original"
    return "original" if known else config.base, config.base


def adapted_model(config: MergeConfig, base: Base) -> Decoder:
    """The adapter, unmerged, on the base named."""
    import torch

    from lianlu.model.load import load_model
    from lianlu.model.lora import load_adapter

    model = load_model(config.model, torch.float32, quant=None if base == "original" else base)
    load_adapter(model, config.adapter)
    return model


def merged(model: Decoder, config: MergeConfig) -> Decoder:
    """The adapter merged into what it is on, in place; in fp32, but rounded to the number type on disk."""
    import torch

    from lianlu.model.lora import merge_adapter
    from lianlu.model.quantized import NF4Linear, dequantize_linears

    if any(isinstance(module, NF4Linear) for module in model.modules()):
        dequantize_linears(model)
    merge_adapter(model)
    return model.to(getattr(torch, config.dtype)).float()


def difference(wanted_TV: Tensor, found_TV: Tensor) -> dict[str, float]:
    """How far the logits of two models are apart."""
    apart_TV = (wanted_TV - found_TV).abs()
    return {
        "max_logit_difference": float(apart_TV.max()),
        "mean_logit_difference": float(apart_TV.mean()),
        "top1_agreement": float((wanted_TV.argmax(1) == found_TV.argmax(1)).double().mean()),
    }


def nearest(found: Mapping[Base, Mapping[str, float]]) -> Base:
    """The base into which the merged model is nearest to the one that was trained."""
    return min(found, key=lambda base: found[base]["mean_logit_difference"])


def _tell(found: Mapping[Base, Mapping[str, float]], trained_on: Base, base: Base) -> None:
    """Say which of the two merged models is the one that was trained."""
    from lianlu.core import console

    shown = ", ".join(f"{figures['mean_logit_difference']:.2g} into {kind}" for kind, figures in found.items())
    console.info(f"trained on {trained_on}; difference of the logits once merged, on average: {shown}")
    best = nearest(found)
    if best != base:
        take = "original" if best == "original" else "nf4"
        console.warn(f'the model that was trained is the one merged into {best}: take base = "{take}"')


def probe_logits(model: Decoder, tokenizer: Tokenizer) -> Tensor:
    """logits_TV in fp32 over the fixed probe text."""
    import torch

    from lianlu.kernels.attention import PackedCausal

    text = resources.files("lianlu.quantize").joinpath("probe.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text)[: model.config.max_position_embeddings]
    with torch.no_grad():
        logits_TV: Tensor = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausal([0, len(ids)]))
    return logits_TV.float()
