"""The one training loop, for every stage: accumulate, normalise, clip, step, evaluate, sample, checkpoint.

It knows nothing of the stage. A `Task` supplies micro-batches as a function of the step, a loss as (sum, count), and what
to evaluate and sample. Losses are normalised by the number of targets of the whole step after accumulation, so that loss
and gradient do not depend on how a step is cut into micro-batches. Dropout is seeded by (seed, step). State that has to
survive a kill is in `checkpoint`; when it is written has no influence on any result.

Files, below the folder of the stage: losses.jsonl (step, loss, what was evaluated; equal in every run), samples.jsonl,
logs/metrics.jsonl (the same with rate, norm and times).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lianlu.core.console import Bar, MetricsLog, progress
from lianlu.core.errors import ConfigError
from lianlu.core.store import Output
from lianlu.train.checkpoint import restore_state, save_state, trainable
from lianlu.train.config import TrainConfig
from lianlu.train.optim import build_optimizer, scale_gradients
from lianlu.train.precision import compute_dtype, mixed
from lianlu.train.schedule import rate

RESUME = ".resume"
NUM_EVALUATIONS = 5
SAVE_SHARE = 0.05


class Batch(Protocol):
    """A micro-batch: whatever the task understands, with its size for the rates."""

    @property
    def num_tokens(self) -> int: ...


B = TypeVar("B", bound=Batch)
M = TypeVar("M", bound=nn.Module)
M_contra = TypeVar("M_contra", bound=nn.Module, contravariant=True)


class Task(Protocol[M_contra, B]):
    """What a stage hands to the loop. Everything here is a pure function of its arguments and the stage's configuration."""

    num_steps: int

    def batches(self, step: int) -> Iterable[B]:
        """Micro-batches of one optimiser step."""

    def loss(self, model: M_contra, batch: B) -> tuple[Tensor, int]:
        """Sum of the loss over the targets of a micro-batch, and their number."""

    def evaluate(self, model: M_contra) -> Mapping[str, float]:
        """Held-out figures by name."""

    def samples(self, model: M_contra, step: int) -> Iterable[Mapping[str, Any]]:
        """Text samples."""


class Loop(Generic[M, B]):
    """One training run over a model in place; `run` continues where a killed run stopped."""

    def __init__(self, model: M, task: Task[M, B], config: TrainConfig, out: Output) -> None:
        self.model, self.task, self.config = model, task, config
        self.parameters = trainable(model)
        self.optimizer = build_optimizer(model, config.optim)
        self.device = next(iter(self.parameters.values())).device
        self.dtype = compute_dtype(config.precision, self.device)
        self._resume = out.path / RESUME
        paths = (out.path / "losses.jsonl", out.path / "samples.jsonl", out.logs / "metrics.jsonl")
        self._logs: tuple[Path, Path, Path] = paths
        self._losses, self._samples, self._metrics = (MetricsLog(path) for path in paths)
        self._saved_at, self._save_interval_s = time.monotonic(), config.checkpoint_s

    def run(self, label: str) -> None:
        """Train to the last step."""
        step = restore_state(self._resume, self.model, self.optimizer, self._logs)
        num_steps = self.task.num_steps
        with progress(label, total=num_steps, unit="step", done=step) as bar:
            if step == 0:
                self._report(0, bar)
            while step < num_steps:
                self._step(step, bar)
                step += 1
                if step % self._eval_every() == 0 or step == num_steps or self._sampled(step):
                    self._report(step, bar)
                if step == num_steps or self._due(step):
                    self._save(step)

    def _step(self, step: int, bar: Bar) -> None:
        """One optimiser step; `step` counts from 0, the logs count from 1."""
        started = time.monotonic()
        torch.manual_seed(int(np.random.SeedSequence((self.config.seed, step)).generate_state(1, np.uint64)[0]))
        self.model.train()
        lr = self.config.optim.lr * rate(self.config.schedule, step, self.task.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total, count, num_tokens = self._accumulate(step)
        norm = scale_gradients(self.parameters.values(), count, self.config.optim.clip)
        loss = total / max(count, 1)
        if not math.isfinite(loss + norm):
            message = f"training diverged at step {step + 1}: loss {loss}, gradient norm {norm}"
            raise ConfigError(message, hint="lower optim.lr, lengthen schedule.warmup, or clip harder (optim.clip)")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.monotonic() - started
        self._losses.write(step=step + 1, loss=loss)
        rates = {"tokens_per_s": num_tokens / seconds, "seconds": seconds}
        self._metrics.write(step=step + 1, loss=loss, lr=lr, grad_norm=norm, tokens=num_tokens, **rates)
        bar.advance(1, loss=loss, tokens_per_s=num_tokens / seconds)

    def _accumulate(self, step: int) -> tuple[float, int, int]:
        """Add up the gradients of all micro-batches; returns summed loss, number of targets and number of tokens."""
        sums: list[Tensor] = []
        count = num_tokens = 0
        for batch in self.task.batches(step):
            with mixed(self.dtype, self.device):
                total, targets = self.task.loss(self.model, batch)
            if targets:
                torch.autograd.backward(total)
                sums.append(total.detach())
            count += targets
            num_tokens += batch.num_tokens
        return float(torch.stack(sums).double().sum()) if sums else 0.0, count, num_tokens

    def _report(self, step: int, bar: Bar) -> None:
        """Evaluate and sample at a boundary between steps."""
        self.model.eval()
        last = step == self.task.num_steps
        with torch.no_grad(), mixed(self.dtype, self.device):
            if step % self._eval_every() == 0 or last:
                figures = dict(self.task.evaluate(self.model))
                self._losses.write(step=step, **figures)
                self._metrics.write(step=step, **figures)
                bar.advance(0, **figures)
            if last or self._sampled(step):
                for sample in self.task.samples(self.model, step):
                    self._samples.write(step=step, **sample)

    def _eval_every(self) -> int:
        return self.config.eval_every or max(-(-self.task.num_steps // NUM_EVALUATIONS), 1)

    def _sampled(self, step: int) -> bool:
        return self.config.sample_every > 0 and step > 0 and step % self.config.sample_every == 0

    def _due(self, step: int) -> bool:
        """Whether to write the state now: by step, else by the clock."""
        if self.config.checkpoint_every:
            return step % self.config.checkpoint_every == 0
        return time.monotonic() - self._saved_at >= self._save_interval_s

    def _save(self, step: int) -> None:
        started = time.monotonic()
        save_state(self._resume, self.model, self.optimizer, step, self._logs)
        self._saved_at = time.monotonic()
        self._save_interval_s = max(self.config.checkpoint_s, (self._saved_at - started) / SAVE_SHARE)
