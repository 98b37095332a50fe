"""Stage pretrain: a new language model from token shards.

In: a shards folder (train.bin, held_out.bin, tokenizer). Out: a checkpoint in Hugging Face layout with its tokenizer,
losses.jsonl, samples.jsonl and logs/metrics.jsonl. Documents are packed without padding and do not see each other.

Held-out quality is bits per byte: summed nats over the held-out tokens, end-of-text included, over ln 2 and the bytes of
their text, so that it does not depend on the tokenizer; documents longer than `sequence_length` are scored in pieces. gzip
-9 and a byte 5-gram model are measured on the same documents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from lianlu.core.config import Config, Shards
from lianlu.core.errors import DataError, LianluError
from lianlu.core.stage import Estimate
from lianlu.core.store import Output
from lianlu.model.config import Architecture, ModelConfig
from lianlu.train.config import TrainConfig
from lianlu.train.forecast import Work, forecast

USUAL_VOCABULARY = 8192


class ShapeConfig(Config):
    """The shape of the new model; its vocabulary is that of the shards' tokenizer."""

    architecture: Architecture = "internlm2"
    """Family: internlm2, llama, qwen2 or qwen3."""
    hidden_size: int = Field(default=256, gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(default=768, gt=0)
    """Width of the feed-forward layer."""
    num_hidden_layers: int = Field(default=6, gt=0)
    """Blocks."""
    num_attention_heads: int = Field(default=4, gt=0)
    """Query heads."""
    num_key_value_heads: int = Field(default=2, gt=0)
    """Key-value heads."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square before its root."""
    tie_word_embeddings: bool = False
    """The output layer is the embedding."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of new weights."""


class PretrainConfig(TrainConfig):
    """A new model from token shards."""

    data: Shards
    """Token shards."""
    model: ShapeConfig = ShapeConfig()
    """The shape of the model."""
    tokens: int = Field(default=1_000_000, gt=0)
    """Tokens to train on; the shards are read as often as it takes."""
    steps: int = Field(default=0, ge=0)
    """Optimiser steps; if set, it decides instead of `tokens`."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens of one optimiser step."""
    sequence_length: int = Field(default=512, gt=1)
    """Longest piece of a document that is seen at once."""
    held_out_tokens: int = Field(default=30_000, gt=0)
    """Held-out tokens to evaluate on, at most."""
    ngram_bytes: int = Field(default=16_000_000, ge=0)
    """Bytes of training text the 5-gram baseline is made from, at most."""
    sample_prompts: tuple[str, ...] = ("", "The ", "def ")
    """Beginnings of text samples; each is continued greedily and at temperature 0.8."""
    sample_tokens: int = Field(default=48, ge=0)
    """Length of a text sample."""

    @property
    def num_steps(self) -> int:
        """Optimiser steps."""
        return self.steps or -(-self.tokens // self.batch_tokens)


def estimate(config: PretrainConfig) -> Estimate:
    """A forecast from the shape; the vocabulary is that of the shards if they are there."""
    from lianlu.formats.shards import open_shard

    try:
        vocab_size = open_shard(Path(config.data) / "train.bin").vocab_size
    except (LianluError, OSError):
        vocab_size = USUAL_VOCABULARY
    tokens = config.num_steps * config.batch_tokens
    work = Work(tokens, min(config.batch_tokens, config.micro_tokens))
    return forecast(model_config(config, vocab_size), work, config.precision)


def model_config(config: PretrainConfig, vocab_size: int, **special_ids: Any) -> ModelConfig:
    """The shape as a model config."""
    shape = config.model.model_dump()
    return ModelConfig(vocab_size=vocab_size, max_position_embeddings=config.sequence_length, **shape, **special_ids)


def run(config: PretrainConfig, out: Output) -> None:
    """Train, evaluate, and write the checkpoint; continues where a killed run stopped. Raises: DataError for bad shards."""
    from lianlu.model.decoder import build_model
    from lianlu.model.save import save_model
    from lianlu.tokenizer.tokenizer import Tokenizer
    from lianlu.train.checkpoint.state import finish, finished
    from lianlu.train.loop import RESUME, Loop
    from lianlu.train.parallel.layout import Layout
    from lianlu.train.pretrain_task import PretrainTask

    if (figures := finished(out.path / RESUME)) is not None:
        out.figures.update(figures)
        return
    tokenizer = Tokenizer.load(config.data)
    layout = Layout(config)
    task = PretrainTask(config, tokenizer, layout)
    if tokenizer.vocab_size > task.vocab_size:
        raise DataError(
            f"the shards in {config.data} know {task.vocab_size} tokens, their tokenizer {tokenizer.vocab_size}",
            hint="the folder mixes two runs: make the shards again",
        )
    special_ids = {"bos_token_id": tokenizer.bos_id, "eos_token_ids": tokenizer.eos_ids, "pad_token_id": tokenizer.pad_id}
    model = build_model(model_config(config, task.vocab_size, **special_ids), config.seed).to(layout.device)
    Loop(model, task, config, out, layout).run("pretrain")
    save_model(model.cpu(), out.path)
    tokenizer.save(out.path)
    out.figures.update(task.figures(model, out))
    finish(out.path / RESUME, out.figures)
