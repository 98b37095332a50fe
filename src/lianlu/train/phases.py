"""The phases of a pretraining run: which one a step belongs to, where its tokens begin, how many they are, at which rate.

InternLM2 (arXiv 2403.17297, section 3) trains 90 % at 4k, 9 % at 32k with half of the tokens in short texts and another
rotary base, and ends with a mix of its own at a lower rate:

    phases = [
        { share = 0.90, sequence_length = 4096, rope_theta = 5e4 },
        { share = 0.09, sequence_length = 32768, rope_theta = 1e6, short_share = 0.5, short_length = 4096 },
        { share = 0.01, weights = [0.1, 0.9], lr_scale = 0.3, batch_tokens = 2_000_000 },
    ]

What a phase does not say is the run's. The schedule of the learning rate runs over the whole run; a phase's `lr_scale`
multiplies it. A pure function of the configuration, so there is nothing to save. Imports no torch.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from lianlu.core.config import Config
from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig, RopeScaling
from lianlu.train.config import Schedule, Share
from lianlu.train.schedule import rate


class PhaseConfig(Config):
    """A part of the run with settings of its own."""

    share: float = Field(gt=0, le=1)
    """Share of the tokens of the run; the shares of all phases add up to 1."""
    weights: tuple[float, ...] = ()
    """Shares of the sources in this phase; empty: the run's."""
    sequence_length: int = Field(default=0, ge=0)
    """Longest piece of a document that is seen at once; 0: the run's."""
    short_share: Share = 0.0
    """Share of the tokens that comes from pieces of `short_length`; the rest comes from documents longer than that."""
    short_length: int = Field(default=0, ge=0)
    """Longest piece among the short ones; 0: the run's `sequence_length`."""
    rope_theta: float = Field(default=0.0, ge=0)
    """Base of the rotary frequencies from here on; 0: the model's."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies from here on; none: the model's."""
    lr_scale: float = Field(default=1.0, gt=0)
    """Factor on the learning rate of the schedule."""
    batch_tokens: int = Field(default=0, ge=0)
    """Tokens of one optimiser step; 0: the run's."""


@dataclass(frozen=True)
class Phase:
    """A phase with nothing left open: steps `first_step` to `last_step` (exclusive), tokens from `first_token`."""

    number: int
    first_step: int
    last_step: int
    first_token: int
    batch_tokens: int
    sequence_length: int
    short_share: float
    short_length: int
    weights: tuple[float, ...]
    lr_scale: float
    rope_theta: float
    rope_scaling: RopeScaling | None

    @property
    def num_tokens(self) -> int:
        """Tokens of its steps."""
        return (self.last_step - self.first_step) * self.batch_tokens

    def rotated(self, model: ModelConfig) -> ModelConfig:
        """`model` with the rotary base and scaling of this phase."""
        theta, scaling = self.rope_theta or model.rope_theta, self.rope_scaling or model.rope_scaling
        return model.model_copy(update={"rope_theta": theta, "rope_scaling": scaling})


@dataclass(frozen=True)
class Place:
    """Where a step is: its phase, its first token counted from the beginning of the phase and of the run, and its size."""

    phase: Phase
    start: int
    first_token: int
    batch_tokens: int


class Timeline:
    """The phases of one run of `tokens` tokens, laid end to end; where they say nothing, they do as `whole` does.

    Phases are rounded to whole steps; what one gains the next one loses, so that no share is off by more than a batch.
    Raises: ConfigError for shares that are not 1 together, or a phase too small for a single step.
    """

    def __init__(self, phases: Sequence[PhaseConfig], whole: PhaseConfig, tokens: int, schedule: Schedule) -> None:
        self._schedule = schedule
        self.phases = _laid_out(phases or [whole], whole, tokens)
        self._ends = [phase.last_step for phase in self.phases]
        self.num_steps = self._ends[-1]
        self.num_tokens = self.phases[-1].first_token + self.phases[-1].num_tokens

    @property
    def longest(self) -> int:
        """Longest piece of any phase."""
        return max(phase.sequence_length for phase in self.phases)

    @property
    def shortest(self) -> int:
        """Longest piece of the phase with the shortest ones: what the model can read from the first step to the last."""
        return min(phase.sequence_length for phase in self.phases)

    def phase(self, step: int) -> Phase:
        """The phase of a step in [0, num_steps)."""
        return self.phases[bisect.bisect_right(self._ends, step)]

    def place(self, step: int) -> Place:
        """The phase of a step and its tokens."""
        phase = self.phase(step)
        start = (step - phase.first_step) * phase.batch_tokens
        return Place(phase, start, phase.first_token + start, phase.batch_tokens)

    def rate(self, step: int) -> float:
        """Share of the highest learning rate: the schedule's, times the phase's factor."""
        return rate(self._schedule, step, self.num_steps) * self.phase(step).lr_scale


def _laid_out(phases: Sequence[PhaseConfig], whole: PhaseConfig, tokens: int) -> tuple[Phase, ...]:
    total = sum(phase.share for phase in phases)
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"the shares of the phases add up to {total:g}", hint="give each its share of the tokens, 1 together")
    laid: list[Phase] = []
    step = token = 0
    share = 0.0
    for number, phase in enumerate(phases):
        share += phase.share
        batch = phase.batch_tokens or whole.batch_tokens
        left = tokens * share - token
        num_steps = -(-(tokens - token) // batch) if number == len(phases) - 1 else round(left / batch)
        if num_steps < 1:
            message = f"phase {number + 1} is no step long: {phase.share:g} of {tokens:,} tokens, in batches of {batch:,}"
            raise ConfigError(message, hint="train on more tokens, or give the phase a larger share or smaller batches")
        laid.append(_filled(phase, whole, number, (step, step + num_steps, token)))
        step, token = step + num_steps, token + num_steps * batch
    return tuple(laid)


def _filled(phase: PhaseConfig, whole: PhaseConfig, number: int, span: tuple[int, int, int]) -> Phase:
    length = phase.sequence_length or whole.sequence_length
    short_length = phase.short_length or whole.sequence_length
    if phase.short_share and short_length >= length:
        message = f"phase {number + 1}: short_length {short_length} is not below its sequence_length {length}"
        raise ConfigError(message, hint="set short_length to the length of the earlier phase, for example 4096")
    return Phase(
        number=number,
        first_step=span[0],
        last_step=span[1],
        first_token=span[2],
        batch_tokens=phase.batch_tokens or whole.batch_tokens,
        sequence_length=length,
        short_share=phase.short_share,
        short_length=short_length if phase.short_share else 0,
        weights=phase.weights or whole.weights,
        lr_scale=phase.lr_scale,
        rope_theta=phase.rope_theta,
        rope_scaling=phase.rope_scaling,
    )
