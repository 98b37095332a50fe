"""A rough forecast of time and memory for `lianlu plan`, from parameter and token counts. Imports no torch.

Time is arithmetic at the rate this project measured on a 2-core EPYC in training (products, attention and the rest
together): 140 GFLOP/s a core with native bfloat16, 55 without; both are off by a factor of two on other processors.
"""

from __future__ import annotations

from dataclasses import dataclass

from lianlu.core.machine import cpu_flags, num_cores
from lianlu.core.stage import Estimate
from lianlu.model.config import ModelConfig, num_parameters
from lianlu.train.config import Precision

BFLOAT16_FLOPS, FLOAT32_FLOPS = 140e9, 55e9
RUNTIME_BYTES = 400_000_000


@dataclass(frozen=True)
class Work:
    """What a run will do: tokens in all, tokens at once, and the share of the weights that is trained."""

    tokens: float
    tokens_at_once: int
    trained_share: float = 1.0


def forecast(model: ModelConfig, work: Work, precision: Precision) -> Estimate:
    """Seconds and peak memory of training a model of this shape."""
    parameters = num_parameters(model)
    native = precision != "float32" and {"avx512_bf16", "amx_bf16"} & cpu_flags()
    flops = (BFLOAT16_FLOPS if native else FLOAT32_FLOPS) * num_cores()
    per_token = parameters * (4 + 2 * work.trained_share)
    seconds = per_token * work.tokens / flops
    state = parameters * (4 + 12 * work.trained_share)
    width = 2 if native else 4
    per_layer = 14 * model.hidden_size + 5 * model.intermediate_size
    activations = width * work.tokens_at_once * model.num_hidden_layers * per_layer
    basis = f"{parameters / 1e6:.1f} M parameters, {work.tokens / 1e6:.2f} M tokens, {'bfloat16' if native else 'float32'}"
    return Estimate(seconds, int(RUNTIME_BYTES + state + activations), basis)
