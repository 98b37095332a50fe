"""Learning rate as a pure function of the step: nothing to save, nothing to restore.

Cosine as in Loshchilov & Hutter 2017, WSD as in MiniCPM (arXiv 2404.06395). Where libraries begin with a step at rate 0 and
take a last one at nearly 0, both lost, every step here has a rate above 0: step `s` of `n` has the rate that they give to step
`s + 1` of `n + 1` (and of one step more in each phase that rises or falls in a line).
"""

from __future__ import annotations

import math

from lianlu.train.config import CosineSchedule, Schedule, WsdSchedule


def rate(schedule: Schedule, step: int, num_steps: int) -> float:
    """Share of the highest learning rate at `step` in [0, num_steps): above 0, at most 1.

    Phases are shares of the steps, rounded; one that is rounded to nothing is left out. If the warm-up takes all steps, the rate
    still climbs at the last, to n / (n + 1).
    """
    warmup = round(schedule.warmup * num_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if isinstance(schedule, CosineSchedule):
        progress = (step - warmup) / (num_steps - warmup)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if isinstance(schedule, WsdSchedule):
        decay = round(schedule.decay * num_steps)
        return 1 - (1 - schedule.final) * max(step + 1 - (num_steps - decay), 0) / (decay + 1)
    return 1.0
