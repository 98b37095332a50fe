"""The one training loop, for every stage: accumulate, normalise, clip, step, evaluate, sample, checkpoint.

It knows nothing of the stage and nothing of parallelism. A `Task` supplies examples as a function of the step, a summed
loss, and what to evaluate and sample; a `Layout` says which of the examples this process computes and how sums are formed.
Losses are normalised by the number of targets of the whole step after accumulation, so that loss and gradient do not depend
on how a step is cut into micro-batches or dealt to processes. Dropout is seeded by (seed, step, process). State that has to
survive a kill is in `checkpoint`; when it is written has no influence on any result.

Files, below the folder of the stage: losses.jsonl (step, loss, norm, what was evaluated; equal in every run), samples.jsonl,
logs/metrics.jsonl (the same with rate and times).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lianlu.core import console, machine
from lianlu.core.console import Bar, progress
from lianlu.core.errors import ConfigError
from lianlu.core.store import Output
from lianlu.train.audit import audit_step
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.checkpoint.state import trainable
from lianlu.train.config import TrainConfig
from lianlu.train.journal import Journal, StepWork
from lianlu.train.meter import Meter
from lianlu.train.optim.build import build_optimizer, scale_gradients, set_rate
from lianlu.train.parallel.layout import Layout
from lianlu.train.precision import mixed
from lianlu.train.prefetch import Prefetch
from lianlu.train.share import deal
from lianlu.train.spikes import Spikes

RESUME = ".resume"
NUM_EVALUATIONS = 5
SHOWN_SOURCES = 5


class Example(Protocol):
    """What a step is made of, with its size for dealing and rates, and its targets for the mean."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_targets(self) -> int: ...


E = TypeVar("E", bound=Example)
B = TypeVar("B")
M = TypeVar("M", bound=nn.Module)
M_contra = TypeVar("M_contra", bound=nn.Module, contravariant=True)


class Task(Protocol[M_contra, E, B]):
    """What a stage hands to the loop. Everything here is a pure function of its arguments and the stage's configuration."""

    num_steps: int

    def prepare(self, model: M_contra, step: int) -> None:
        """Make the model what it has to be in `step` (a phase may change its rotary base)."""

    def rate(self, step: int) -> float:
        """Share of the highest learning rate."""

    def examples(self, step: int) -> Sequence[E]:
        """All examples of one optimiser step, whoever computes them."""

    def collate(self, examples: Sequence[E]) -> B:
        """A micro-batch; of no examples, one that costs little and has no targets."""

    def loss(self, model: M_contra, batch: B) -> Tensor:
        """Sum of the loss over the targets of a micro-batch."""

    def describe(self, example: E) -> str:
        """Where an example comes from."""

    def evaluate(self, model: M_contra) -> Mapping[str, float]:
        """Held-out figures by name; the first is the one that says which state is best (lower is better)."""

    def samples(self, model: M_contra, step: int) -> Iterable[Mapping[str, Any]]:
        """Text samples."""


class Step(Generic[E, B]):
    """The examples of one step and this process's micro-batches of them."""

    def __init__(self, task: Task[Any, E, B], step: int, layout: Layout, max_tokens: int) -> None:
        self.examples = task.examples(step)
        shares = deal([example.num_tokens for example in self.examples], layout.num_data, max_tokens)
        self.own = [[self.examples[index] for index in chosen] for chosen in shares[layout.data_rank]]
        self.most_examples = max(sum(len(part) for part in share) for share in shares)
        self.batches = [task.collate(part) for part in self.own]
        self.num_tokens = sum(example.num_tokens for example in self.examples)
        self.num_targets = sum(example.num_targets for example in self.examples)


class Loop(Generic[M, E, B]):
    """One training run over a model in place; `run` continues where a killed run stopped."""

    def __init__(self, model: M, task: Task[M, E, B], config: TrainConfig, out: Output, layout: Layout) -> None:
        self.model, self.task, self.config, self.layout = model, task, config, layout
        self.parameters = trainable(model)
        self.optimizer = build_optimizer(model, config.optim, part=layout.pipeline is not None)
        self._journal = Journal(out, config, layout, Meter(model, layout))
        self._checkpoints = Checkpoints(out.path / RESUME, config.checkpoint, layout, self._journal.paths)
        self._spikes = Spikes(config.spikes)
        self._figure: float | None = None

    def run(self, label: str) -> None:
        """Train to the last step."""
        # not in float32, where products take most of the time and the larger pieces an eighth more memory
        narrow = self.layout.device.type == "cpu" and self.layout.dtype == torch.bfloat16
        with machine.freed_memory_kept() if narrow else nullcontext():
            self._run(label)

    def _run(self, label: str) -> None:
        step, last = self._checkpoints.restore(self.model, self.optimizer), self.task.num_steps
        if step:
            self._spikes.replay(self._journal.steps())
        try:
            self._journal.begin(step, last)
            with progress(label, total=last, unit="step", done=step) as bar, Prefetch(self._prepared, last) as ahead:
                if step == 0:
                    self._report(0, bar)
                while step < last:
                    prepared, wait_s = ahead.take(step)
                    self._step(step, prepared, wait_s, bar)
                    step += 1
                    if step % self._eval_every() == 0 or step == last or self._sampled(step):
                        self._report(step, bar)
                    if step == last or self._checkpoints.due(step, self._figure):
                        self._checkpoints.save(self.model, self.optimizer, step, self._figure)
            self._journal.finish()
        finally:
            self._checkpoints.close()
            self._journal.close()

    def _prepared(self, step: int) -> Step[E, B]:
        return Step(self.task, step, self.layout, self.config.micro_tokens)

    def _step(self, step: int, prepared: Step[E, B], wait_s: float, bar: Bar) -> None:
        """One optimiser step; `step` counts from 0, the logs count from 1."""
        started = time.monotonic()
        seed = np.random.SeedSequence((self.config.seed, step, self.layout.data_rank))
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        self.task.prepare(self.model, step)
        if self.config.audit and step % self._eval_every() == 0:
            audit_step(self.model, self.task, prepared, self.layout)
        self.model.train()
        lr = self.config.optim.lr * self.task.rate(step)
        set_rate(self.optimizer, lr)
        figures = self._gradients(prepared)
        spike = self._spikes.judge(figures)
        if spike:
            self._tell_spike(step, spike, prepared)
        if not spike or (not self.config.spikes.skip and np.isfinite(sum(figures.values()))):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._spikes.note(figures, bool(spike))
        lengths = [example.num_tokens for example in prepared.examples]
        work = StepWork(lengths, prepared.num_targets, time.monotonic() - started, wait_s)
        self._journal.step(step + 1, {**figures, "lr": lr, **({"spike": spike} if spike else {})}, work, bar)
        if self._spikes.in_a_row >= self.config.spikes.max_in_a_row:
            self._give_up(step, spike)

    def _gradients(self, prepared: Step[E, B]) -> dict[str, float]:
        """Accumulate, normalise and clip; returns mean loss and gradient norm of the whole step."""
        total = self.layout.accumulate(self.model, prepared.batches, self.task.loss)
        norm = self.layout.norm([p.grad for p in self.parameters.values() if p.grad is not None])
        norm = scale_gradients(self.parameters.values(), norm, prepared.num_targets, self.config.optim.clip)
        return {"loss": total / max(prepared.num_targets, 1), "grad_norm": norm}

    def _report(self, step: int, bar: Bar) -> None:
        """Evaluate and sample at a boundary between steps."""
        self.task.prepare(self.model, min(step, self.task.num_steps - 1))
        self.model.eval()
        last = step == self.task.num_steps
        with torch.no_grad(), mixed(self.layout.dtype, self.layout.device):
            if step % self._eval_every() == 0 or last:
                figures = dict(self.task.evaluate(self.model))
                self._figure = next(iter(figures.values()), None)
                self._journal.figures(step, figures, bar)
            if self.layout.pipeline is None and (last or self._sampled(step)):
                self._journal.samples(step, self.task.samples(self.model, step))
        self.layout.settle(self.model)

    def _eval_every(self) -> int:
        return self.config.eval_every or max(-(-self.task.num_steps // NUM_EVALUATIONS), 1)

    def _sampled(self, step: int) -> bool:
        return self.config.sample_every > 0 and step > 0 and step % self.config.sample_every == 0

    def _tell_spike(self, step: int, spike: str, prepared: Step[E, B]) -> None:
        sources = list(dict.fromkeys(self.task.describe(example) for example in prepared.examples))
        shown = ", ".join(sources[:SHOWN_SOURCES]) + (
            f" and {len(sources) - SHOWN_SOURCES} more" if len(sources) > SHOWN_SOURCES else ""
        )
        done = "left out" if self.config.spikes.skip else "kept"
        if self.layout.is_main:
            console.warn(f"step {step + 1} {done}: {spike}; its data: {shown}")

    def _give_up(self, step: int, spike: str) -> None:
        message = f"training diverged at step {step + 1}: {self._spikes.in_a_row} steps in a row leapt away; {spike}"
        raise ConfigError(message, hint="lower optim.lr, lengthen schedule.warmup, or clip harder (optim.clip)")
