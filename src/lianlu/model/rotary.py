"""Cosines and sines for a batch of tokens, from a model's config: the one place that knows the scaling kinds."""

from __future__ import annotations

import torch
from torch import Tensor

from lianlu.kernels import rope
from lianlu.model.config import DynamicScaling, LinearScaling, Llama3Scaling, ModelConfig, YarnScaling


class Rotary:
    """Rotary angles of one model. Frequencies stay in fp32 whatever the dtype of the weights.

    Shapes: T tokens, K head_dim.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._scaling = config.rope_scaling
        self._magnitude = 1.0
        if isinstance(self._scaling, YarnScaling):
            self._magnitude = self._scaling.attention_factor or rope.yarn_magnitude(self._scaling.factor)
        self._frequencies: dict[torch.device, Tensor] = {}

    def __call__(self, positions_T: Tensor, lengths_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """cos_TK and sin_TK in fp32, as `kernels.rope.rotate` wants them; `lengths_T` matters to dynamic NTK only."""
        return rope.cos_sin(positions_T, self._frequencies_for(positions_T, lengths_T), self._magnitude)

    def _frequencies_for(self, positions_T: Tensor, lengths_T: Tensor | None) -> Tensor:
        device, limit = positions_T.device, self._config.max_position_embeddings
        if isinstance(self._scaling, DynamicScaling) and positions_T.numel():
            longest = int((positions_T + 1 if lengths_T is None else lengths_T).max())
            if longest > limit:
                lengths_T = torch.full_like(positions_T, longest) if lengths_T is None else lengths_T
                base, width = self._config.rope_theta, self._config.head_dim
                return rope.dynamic_frequencies(base, width, self._scaling.factor, limit, lengths_T)
        if device not in self._frequencies:
            self._frequencies[device] = self._fixed().to(device)
        return self._frequencies[device]

    def _fixed(self) -> Tensor:
        base, width, scaling = self._config.rope_theta, self._config.head_dim, self._scaling
        match scaling:
            case LinearScaling():
                return rope.frequencies(base, width) / scaling.factor
            case YarnScaling():
                betas = (scaling.beta_fast, scaling.beta_slow)
                return rope.yarn_frequencies(base, width, scaling.factor, scaling.original_max_position_embeddings, betas)
            case Llama3Scaling():
                bands = (scaling.low_freq_factor, scaling.high_freq_factor)
                return rope.llama3_frequencies(base, width, scaling.factor, scaling.original_max_position_embeddings, bands)
            case _:
                return rope.frequencies(base, width)
