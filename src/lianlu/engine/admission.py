"""Admission: how long would the first token of a request take, and is that soon enough?

A step costs about `start + rows * row + keys * key` seconds: something for itself, for every token in it, and for every key
that its tokens look at. The three are fitted to the steps as they happen (recursive least squares that forgets), so that they
follow the machine, its load and the model. From them, the backlog and the places that are taken follows when a new
request would have its first token; one that would be too late is refused at once with the time after which it would not be.

No tensors here. Source of the fit: Haykin, Adaptive Filter Theory, chapter on recursive least squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from lianlu.core.errors import RequestError
from lianlu.engine.scheduler import Scheduler

FORGET = 0.98
"""Weight of the past against one new step; a step counts for about fifty."""
MIN_STEPS = 12
"""Steps before a prediction is trusted."""
TYPICAL_REPLY = 64.0
"""Tokens of a reply before any has ended."""
KEYS = 1024.0
"""Keys are counted in thousands, so that the three columns are of like size."""


@dataclass(frozen=True, slots=True)
class Load:
    """What stands before a new request, as of the last step."""

    backlog_tokens: int = 0
    """Prompt tokens that are known and not computed."""
    num_decoding: int = 0
    """Sequences that take a row of every step."""
    num_waiting: int = 0
    """Sequences without a place."""
    num_free: int = 1
    """Places that nobody has."""
    mean_keys: float = 0.0
    """Tokens that a decoding sequence has on average."""


class CostModel:
    """Seconds of a step, learnt from steps; and of what lies before a first token."""

    def __init__(self, max_batch_tokens: int) -> None:
        self._budget = max_batch_tokens
        self._weights = np.zeros(3)
        self._spread = np.eye(3) * 1e4
        self._num_seen = 0
        self._mean_reply = TYPICAL_REPLY

    @property
    def is_fitted(self) -> bool:
        """Whether enough steps were seen."""
        return self._num_seen >= MIN_STEPS

    def learn(self, num_rows: int, num_keys: float, seconds: float) -> None:
        """Take in one step: its tokens, the keys all of them looked at, and how long it took."""
        row = np.array([1.0, num_rows, num_keys / KEYS])
        gain = self._spread @ row / (FORGET + row @ self._spread @ row)
        self._weights = self._weights + gain * (seconds - row @ self._weights)
        spread = (self._spread - np.outer(gain, row @ self._spread)) / FORGET
        # steps that are all alike tell nothing about the other directions, whose spread would grow without end
        self._spread = np.clip((spread + spread.T) / 2, -1e6, 1e6)
        self._num_seen += 1

    def finished(self, num_tokens: int) -> None:
        """Take in the length of a reply."""
        self._mean_reply += 0.1 * (num_tokens - self._mean_reply)

    def seconds(self, num_steps: float, num_rows: float, num_keys: float) -> float:
        """Cost of so many steps, rows and keys."""
        return float(np.maximum(self._weights, 0.0) @ np.array([num_steps, num_rows, num_keys / KEYS]))

    def first_token_s(self, num_tokens: int, load: Load) -> float:
        """Seconds until the first token of a new request with `num_tokens` tokens to compute."""
        todo = num_tokens + load.backlog_tokens
        num_steps = math.ceil(todo / max(self._budget - load.num_decoding, 1))
        num_rows = todo + num_steps * load.num_decoding
        num_keys = num_tokens * num_tokens / 2 + num_steps * load.num_decoding * load.mean_keys
        return self._place_s(load) + self.seconds(num_steps, num_rows, num_keys)

    def _place_s(self, load: Load) -> float:
        """Seconds until there is a place: the running ones leave at the rate at which replies end."""
        turns = load.num_waiting - load.num_free + 1
        return max(turns, 0) * self.turn_s(load)

    def turn_s(self, load: Load) -> float:
        """Seconds from one of the running replies that ends to the next."""
        running = load.num_decoding
        step_s = self.seconds(1, running, running * load.mean_keys)
        return self._mean_reply * step_s / running if running else 0.0


class Admission:
    """The cost model of an engine, and what stood before a new request after the last step."""

    def __init__(self, max_batch_tokens: int) -> None:
        self.cost = CostModel(max_batch_tokens)
        self._load = Load()

    def note(self, scheduler: Scheduler) -> None:
        """Take a picture of the queues, for other threads to look at."""
        running = scheduler.running
        decoding = [len(sequence.tokens) for sequence in running if sequence.num_pending == 1]
        self._load = Load(
            backlog_tokens=scheduler.num_waiting_tokens + sum(s.num_pending for s in running if s.num_pending > 1),
            num_decoding=len(decoding),
            num_waiting=len(scheduler.waiting),
            num_free=scheduler.max_running - len(running),
            mean_keys=sum(decoding) / max(len(decoding), 1),
        )

    def full(self, num_open: int) -> RequestError:
        """The refusal of a request when no more may wait (429); it may be tried again when the next reply has ended."""
        wait_s = self.cost.turn_s(self._load) if self.cost.is_fitted else None
        text = f"{num_open} requests are running or waiting"
        return RequestError(text, hint="try again later", status=429, retry_after_s=wait_s)

    def check(self, num_tokens: int, posted_tokens: int, deadline_s: float) -> None:
        """Raises: RequestError (429, with the time to wait) if `num_tokens` more to compute would come too late."""
        if not self.cost.is_fitted:
            return
        load = replace(self._load, backlog_tokens=self._load.backlog_tokens + posted_tokens)
        predicted_s = self.cost.first_token_s(num_tokens, load)
        if predicted_s > deadline_s:
            raise RequestError(
                f"the first token would take about {predicted_s:.1f} s, more than the {deadline_s:g} s that are allowed",
                hint="try again later, or allow more time",
                status=429,
                retry_after_s=predicted_s - deadline_s,
            )
