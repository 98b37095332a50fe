"""Fields that every training stage shares: optimiser, schedule, precision and what happens how often. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lianlu.core.config import Config

Precision = Literal["auto", "float32", "bfloat16"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class OptimConfig(Config):
    """AdamW with decoupled weight decay on matrices (not on norms and biases)."""

    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of the running mean and of the running square of the gradient."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the running square."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Share of a weight removed each step, times the learning rate."""
    clip: float = Field(default=1.0, ge=0)
    """Largest global norm of the gradient; 0 turns clipping off."""


class CosineSchedule(Config):
    """Warm-up, then half a cosine down to `final`."""

    kind: Literal["cosine"] = "cosine"
    warmup: Share = 0.03
    """Share of the steps in which the rate climbs linearly."""
    final: Share = 0.1
    """Where the rate ends, as a share of the highest."""


class WsdSchedule(Config):
    """Warm-up, stable, decay: the rate stays at its highest and falls linearly over the last `decay` of the steps."""

    kind: Literal["wsd"] = "wsd"
    warmup: Share = 0.03
    """Share of the steps in which the rate climbs linearly."""
    decay: Share = 0.2
    """Share of the steps in which it falls."""
    final: Share = 0.0
    """Where the rate ends, as a share of the highest."""


class ConstantSchedule(Config):
    """Warm-up, then the highest rate to the end."""

    kind: Literal["constant"] = "constant"
    warmup: Share = 0.03
    """Share of the steps in which the rate climbs linearly."""


Schedule = Annotated[CosineSchedule | WsdSchedule | ConstantSchedule, Field(discriminator="kind")]


class TrainConfig(Config):
    """What the loop needs to know, whatever the stage."""

    optim: OptimConfig = OptimConfig()
    """The optimiser."""
    schedule: Schedule = CosineSchedule()
    """How the learning rate moves."""
    precision: Precision = "auto"
    """Number type of matrix products: auto is bfloat16 where the processor multiplies it natively, else float32."""
    seed: int = Field(default=0, ge=0)
    """Decides the new weights, the order of the data, dropout and samples."""
    eval_every: int = Field(default=0, ge=0)
    """Steps between held-out evaluations; 0 means about five in all, and always one before and one after."""
    sample_every: int = Field(default=0, ge=0)
    """Steps between text samples; 0 means only after the last step."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between checkpoints for resuming; 0 leaves it to `checkpoint_s`."""
    checkpoint_s: float = Field(default=30.0, gt=0)
    """Seconds between such checkpoints at least; longer where writing one takes more than a twentieth of that."""
