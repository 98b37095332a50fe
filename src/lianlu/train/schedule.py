"""Learning rate as a pure function of the step: nothing to save, nothing to restore.

Cosine as in Loshchilov & Hutter 2017, WSD as in MiniCPM (arXiv 2404.06395). The first step already has a rate above 0.
"""

from __future__ import annotations

import math

from lianlu.train.config import CosineSchedule, Schedule, WsdSchedule


def rate(schedule: Schedule, step: int, num_steps: int) -> float:
    """Share of the highest learning rate at `step` in [0, num_steps); in (0, 1] until a schedule decays to 0."""
    warmup = round(schedule.warmup * num_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if isinstance(schedule, CosineSchedule):
        progress = (step - warmup) / max(num_steps - warmup, 1)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if isinstance(schedule, WsdSchedule):
        decay = max(round(schedule.decay * num_steps), 1)
        return 1 - (1 - schedule.final) * max(step + 1 - (num_steps - decay), 0) / (decay + 1)
    return 1.0
