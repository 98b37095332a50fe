"""A rough forecast for stages that read a model, look at it, and write it again. Imports no torch."""

from __future__ import annotations

from lianlu.core.errors import LianluError
from lianlu.core.machine import num_cores
from lianlu.core.stage import Estimate
from lianlu.model.config import num_parameters

USUAL_PARAMETERS = 135_000_000
BYTES_PER_S = 300e6
FLOAT32_FLOPS = 55e9
RUNTIME_BYTES = 400_000_000


def rewrite_forecast(model: str, passes: float, tokens: int) -> Estimate:
    """Seconds and peak memory of `passes` over the weights in fp32 and a forward pass of `tokens` tokens, done twice."""
    from lianlu.model.load import read_config

    try:
        parameters = num_parameters(read_config(model))
    except (LianluError, OSError, ValueError):
        parameters = USUAL_PARAMETERS
    seconds = 4 * parameters * passes / BYTES_PER_S + 2 * 2 * parameters * tokens / (FLOAT32_FLOPS * num_cores())
    return Estimate(seconds, RUNTIME_BYTES + 6 * parameters, f"{parameters / 1e6:.1f} M parameters")
