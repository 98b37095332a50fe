"""The model a pretraining run begins with: new weights in a shape, or those of a checkpoint that fits the shards."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lianlu.core import console
from lianlu.core.errors import ConfigError, DataError
from lianlu.model import load
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, empty_model, new_weights
from lianlu.model.quantized import is_quantized
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.pretrain import PretrainConfig, continued
from lianlu.train.sources import vocabulary_difference


def open_model(config: PretrainConfig, tokenizer: Tokenizer, vocab_size: int) -> tuple[Decoder, Iterator[tuple[str, Tensor]]]:
    """The model to train on shards with ids below `vocab_size`, on `meta`, and its weights by name as they are asked for.

    Raises: DataError for shards that know other tokens than the checkpoint; ConfigError for a quantised one.
    """
    shape = starting_config(config, tokenizer, vocab_size)
    if not config.start:
        return empty_model(shape), new_weights(shape, config.seed)
    model, weights = load.open_model(config.start, config=shape)
    if is_quantized(model):
        raise ConfigError(f"the weights of {config.start} are quantised", hint="continue from the checkpoint it was made from")
    return model, weights


def starting_config(config: PretrainConfig, tokenizer: Tokenizer, vocab_size: int) -> ModelConfig:
    """The shape of the model, checked against the shards. Raises: DataError if they know other tokens than the checkpoint."""
    if tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"the shards in {config.folders[0]} know {vocab_size} tokens, their tokenizer {tokenizer.vocab_size}",
            hint="the folder mixes two runs: make the shards again",
        )
    if config.start:
        model = continued(load.read_config(config.start), config.timeline)
        _require_fit(config.start, model, tokenizer, vocab_size)
        return model
    special_ids = {"bos_token_id": tokenizer.bos_id, "eos_token_ids": tokenizer.eos_ids, "pad_token_id": tokenizer.pad_id}
    model = config.model.as_model(vocab_size, config.timeline.longest, **special_ids)
    if model.vocab_size > vocab_size:
        unused = model.vocab_size - vocab_size
        console.info(f"the embedding has {model.vocab_size:,} rows as its shape asks for; {unused:,} stand for no token")
    return model


def _require_fit(start: str, model: ModelConfig, tokenizer: Tokenizer, vocab_size: int) -> None:
    hint = "make the shards with the checkpoint's tokenizer: tokenizer = the same model in the shard step"
    if vocab_size > model.vocab_size:
        raise DataError(f"the shards know {vocab_size:,} tokens, the model in {start} only {model.vocab_size:,}", hint=hint)
    difference = vocabulary_difference(tokenizer, Tokenizer.load(start))
    if difference:
        raise DataError(f"the shards were not made with the tokenizer of {start}: {difference}", hint=hint)
