"""What an engine can take: how many tokens fit into memory, how long a sequence may be, which requests are possible."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lianlu.core import machine
from lianlu.core.console import format_bytes
from lianlu.core.errors import ConfigError, RequestError
from lianlu.engine.runner import kv_bytes_per_token
from lianlu.engine.sequence import Request
from lianlu.kernels.kv_codec import CodecName
from lianlu.model.config import DynamicScaling, ModelConfig
from lianlu.model.decoder import Decoder

DEFAULT_TOKENS = 16_384
MEMORY_SHARE = 0.25
MAX_ALTERNATIVES = 100
MAX_PENALTY = 100
MAX_BIAS = 100
UNLIMITED = 1 << 62


def longest_sequence(config: ModelConfig) -> int:
    """Tokens a sequence may have as far as the model goes; dynamic NTK stretches to any length."""
    return UNLIMITED if isinstance(config.rope_scaling, DynamicScaling) else config.max_position_embeddings


def pool_tokens(model: Decoder, max_tokens: int | None, kv: CodecName = "auto") -> int:
    """Tokens whose keys and values are held: as asked, else as many as a share of the memory takes, up to a cap.

    Raises: ConfigError if memory does not hold what is asked.
    """
    device = next(model.parameters()).device
    total = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine.memory_bytes()
    per_token = kv_bytes_per_token(model, kv)
    if max_tokens is None:
        return min(DEFAULT_TOKENS, int(total * MEMORY_SHARE) // per_token)
    if max_tokens * per_token > total:
        raise ConfigError(
            f"max_tokens {max_tokens} takes {format_bytes(max_tokens * per_token)}, there are {format_bytes(total)}",
            hint=f"this machine could hold {total // 2 // per_token} tokens in half of it",
        )
    return max_tokens


def check_request(request: Request, vocab_size: int, max_len: int, num_held: int) -> None:
    """Raises: RequestError if an engine of `num_held` tokens and sequences up to `max_len` cannot serve the request."""
    prompt = request.prompt
    if not prompt:
        raise RequestError("the prompt is empty", hint="give at least one token")
    check_ids(prompt, vocab_size)
    if len(prompt) >= max_len:
        by_pool = max_len == num_held
        why = f"this engine holds {num_held} tokens" if by_pool else f"the model's context is {max_len} tokens"
        hint = "raise max_tokens of the engine, or shorten the prompt" if by_pool else "shorten the prompt"
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
