"""What an engine can take: how many tokens fit into memory, how long a sequence may be, which requests are possible."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch

from lianlu.core import machine
from lianlu.core.console import format_bytes
from lianlu.core.errors import ConfigError, RequestError
from lianlu.engine.config import EngineConfig
from lianlu.engine.runner import kv_bytes_per_token
from lianlu.engine.sequence import Request
from lianlu.kernels.kv_codec import CodecName
from lianlu.model.config import DynamicScaling, LinearScaling, ModelConfig, NoScaling, YarnScaling
from lianlu.model.decoder import Decoder

DEFAULT_TOKENS = 16_384
MEMORY_SHARE = 0.25
MAX_ALTERNATIVES = 100
MAX_PENALTY = 100
MAX_BIAS = 100
UNLIMITED = 1 << 62


def longest_sequence(config: ModelConfig, wanted: EngineConfig | None = None) -> int:
    """Tokens a sequence may have as far as the model goes, or as `wanted.context` says.

    Raises: ConfigError for a context beyond what the model was made for, without `wanted.rope`.
    """
    longest = trained_length(config)
    context = None if wanted is None else wanted.context
    if wanted is None or context is None:
        return longest
    if context > longest and (wanted.rope is None or isinstance(wanted.rope, NoScaling)):
        factor = math.ceil(context / config.max_position_embeddings)
        raise ConfigError(
            f"context {context} is longer than the {longest} tokens this model was made for",
            hint=f'set rope as well, for example rope.kind = "dynamic" and rope.factor = {factor}, or lower context',
        )
    return context


def trained_length(config: ModelConfig) -> int:
    """The longest sequence a model was made for: linear scaling and YaRN stretch by their factor, dynamic NTK to any length."""
    trained = config.max_position_embeddings
    match config.rope_scaling:
        case DynamicScaling():
            return UNLIMITED
        case LinearScaling(factor=factor):
            return int(trained * factor)
        case YarnScaling(factor=factor, original_max_position_embeddings=original):
            return max(trained, int(original * factor))
        case _:
            return trained


def blocks_held(model: Decoder, config: EngineConfig, draft: Decoder | None = None) -> int:
    """Blocks of keys and values, enough for one sequence of `config.context`; a draft model has its own in each block.

    Raises: ConfigError if memory does not hold them, or not even one block.
    """
    size, context = config.block_size, config.context or 0
    held = pool_tokens(model, config.max_tokens, config.kv, context, draft)
    if held < size:
        raise ConfigError(f"there is no room for a block of {size} tokens", hint="raise max_tokens or free some memory")
    return max(held // size, -(-context // size))


def pool_tokens(
    model: Decoder, max_tokens: int | None, kv: CodecName = "auto", context: int = 0, draft: Decoder | None = None
) -> int:
    """Tokens whose keys and values are held: as asked, else as many as a share of the memory takes, up to a cap.

    `context` tokens, one longest sequence, are held in any case. Raises: ConfigError if memory does not hold that, or if
    `max_tokens` is less.
    """
    total, free = _memory(next(model.parameters()).device)
    models = [model] if draft is None else [model, draft]
    per_token = _bytes_per_token(models, kv)
    if max_tokens is not None and max_tokens < context:
        hint = "raise max_tokens, or lower context"
        raise ConfigError(f"max_tokens {max_tokens} does not hold one sequence of context {context}", hint=hint)
    usual = min(DEFAULT_TOKENS, min(int(total * MEMORY_SHARE), free) // per_token)
    tokens = max(usual, context) if max_tokens is None else max_tokens
    if tokens * per_token > free:
        raise ConfigError(
            f"keys and values of {tokens} tokens take {format_bytes(tokens * per_token)}, there are {format_bytes(free)}",
            hint=f"{_what_fits(models, kv, free)}; lower {'context' if max_tokens is None else 'max_tokens'}, or set kv",
        )
    return tokens


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes in all, and bytes that are free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free, free
    return machine.memory_bytes(), machine.available_bytes()


def _bytes_per_token(models: Sequence[Decoder], kv: CodecName) -> int:
    return sum(kv_bytes_per_token(model, kv) for model in models)


def _what_fits(models: Sequence[Decoder], kv: CodecName, free: int) -> str:
    """How many tokens fit as things are, and with narrower keys and values."""
    parts = [f"{free // _bytes_per_token(models, kv)} tokens fit"]
    narrow: tuple[CodecName, ...] = ("int8", "int4")
    for name in narrow[narrow.index(kv) + 1 if kv in narrow else 0 :]:
        with contextlib.suppress(ConfigError):
            parts.append(f"{free // _bytes_per_token(models, name)} with kv = {name!r}")
    return ", ".join(parts)


def check_request(request: Request, vocab_size: int, max_len: int, num_held: int) -> None:
    """Raises: RequestError if an engine of `num_held` tokens and sequences up to `max_len` cannot serve the request."""
    prompt = request.prompt
    if not prompt:
        raise RequestError("the prompt is empty", hint="give at least one token")
    check_ids(prompt, vocab_size)
    if len(prompt) >= max_len:
        by_pool = max_len == num_held
        why = f"this engine holds {num_held} tokens" if by_pool else f"the model's context is {max_len} tokens"
        hint = "shorten the prompt, or raise " + (
            "max_tokens of the engine" if by_pool else "context of the engine (and set rope)"
        )
        raise RequestError(f"the prompt has {len(prompt)} tokens, but {why}, the reply included", hint=hint)
    _check_sampling(request, vocab_size)


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raises: RequestError for token ids that the model has no embedding for."""
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise RequestError(f"there are token ids outside 0..{vocab_size - 1}", hint="use this model's tokenizer")


def _check_sampling(request: Request, vocab_size: int) -> None:
    wanted = request.sampling
    top = wanted.logprobs
    rules = (
        (wanted.max_tokens >= 0, "max_tokens", wanted.max_tokens, "0 or more"),
        (math.isfinite(wanted.temperature) and wanted.temperature >= 0, "temperature", wanted.temperature, "0 (greedy) or more"),
        (0 < wanted.top_p <= 1, "top_p", wanted.top_p, "above 0 and at most 1"),
        (wanted.top_k >= 0, "top_k", wanted.top_k, "0 (all) or more"),
        (0 <= wanted.min_p <= 1, "min_p", wanted.min_p, "0 (all) to 1"),
        (-2 <= wanted.presence_penalty <= 2, "presence_penalty", wanted.presence_penalty, "-2 to 2"),
        (-2 <= wanted.frequency_penalty <= 2, "frequency_penalty", wanted.frequency_penalty, "-2 to 2"),
        (
            0 < wanted.repetition_penalty <= MAX_PENALTY,
            "repetition_penalty",
            wanted.repetition_penalty,
            f"above 0 and at most {MAX_PENALTY}",
        ),
        (top is None or 0 <= top <= MAX_ALTERNATIVES, "logprobs", top, f"0 to {MAX_ALTERNATIVES}"),
    )
    for is_right, name, value, allowed in rules:
        if not is_right:
            raise RequestError(f"{name} is {value}", hint=f"it has to be {allowed}")
    for token, bias in wanted.logit_bias:
        if not 0 <= token < vocab_size:
            raise RequestError(f"logit_bias names token {token}", hint=f"tokens are 0 to {vocab_size - 1}")
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise RequestError(f"logit_bias of token {token} is {bias}", hint=f"it has to be -{MAX_BIAS} to {MAX_BIAS}")
