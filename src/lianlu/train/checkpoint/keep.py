"""When the state of a run is written, and which states are kept.

In the background (`asynchronous`) the training waits only for a copy in memory; the next save waits for the one before.
What goes wrong there is raised at the next save or at the end. But a disk that refuses is only a warning as long as the
training goes on: the last complete state is still there, and the next save tries again.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from lianlu.core import console
from lianlu.core.errors import ArtifactError
from lianlu.core.files import disk_errors
from lianlu.model.config import ModelConfig
from lianlu.train.checkpoint import folder as states
from lianlu.train.checkpoint.peers import Peers
from lianlu.train.checkpoint.state import load_state, plan_state
from lianlu.train.checkpoint.storage import Buffers, DamagedError, State, StateRecord, StateWriter
from lianlu.train.config import CheckpointConfig
from lianlu.train.parallel.layout import Layout

SAVE_SHARE = 0.05

Figures = dict[int, float | None]


class Saving(threading.Thread):
    """A save in the background; whoever has joined it looks at `error`. `figures` are those of the states kept after it."""

    def __init__(self, write: Callable[[], None], figures: Figures) -> None:
        super().__init__(name="state", daemon=True)
        self._write, self.figures = write, figures
        self.error: Exception | None = None

    def run(self) -> None:
        """Write."""
        try:
            self._write()
        except Exception as error:
            self.error = error


class Checkpoints:
    """The states of one run in `folder`; `logs` are the files that grow with it and are cut back when it continues.

    All processes of the run call everything here together.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, layout: Layout, logs: Sequence[Path]) -> None:
        self._folder, self._config, self._logs = folder, config, logs
        self._peers = Peers(layout)
        self._writers = Peers(layout) if config.asynchronous else self._peers
        self._buffers = Buffers() if config.asynchronous else None
        self._saved_at, self._interval_s = time.monotonic(), config.seconds
        self._figures: Figures = {}
        self._latest: float | None = None
        self._best = math.inf
        self._saving: Saving | None = None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest whole state and cut the logs back to it; returns the next step, 0 (and no logs) where there is none.

        Raises: ArtifactError if there are states and none can be read, or one belongs to another model.
        """
        found = self._peers.made(self._look)
        problem: DamagedError | None = None
        for step in sorted(found, reverse=True):
            try:
                state = self._peers.made(partial(states.read_state, self._folder, step))
                load_state(state, model, optimizer, self._peers.group)
            except DamagedError as error:
                self._warn(f"{error.message}; the state before it is used")
                problem = error
                continue
            self._figures = {other: figure for other, figure in found.items() if other <= step}
            self._resume_at(state)
            return step
        if problem is not None:
            raise problem
        self._peers.made(lambda: self._cut_logs({}))
        return 0

    def due(self, step: int, figure: float | None = None) -> bool:
        """Whether to write the state now: by step, by a new best `figure`, else by the clock of the main process."""
        config = self._config
        if any(own and step % own == 0 for own in (config.every, config.keep_every)):
            return True
        if config.keep_best and figure is not None and figure < self._best:
            return True
        if config.every:
            return False
        busy = self._saving is not None and self._saving.is_alive()
        return self._peers.told(not busy and time.monotonic() - self._saved_at >= self._interval_s)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, figure: float | None) -> None:
        """Write the state before `step`; `figure` is the latest held-out one (lower is better), if there was one.

        Raises: ArtifactError when the disk refuses; the states written before are still there.
        """
        started = time.monotonic()
        self._settle(last=False)
        self._latest = self._latest if figure is None else figure
        self._best = min(self._best, math.inf if figure is None or math.isnan(figure) else figure)
        writer = StateWriter(states.hidden(states.state_folder(self._folder, step)), self._header(model, step), self._buffers)
        plan_state(writer, model, optimizer, self._peers.group)
        after = {**self._figures, step: self._latest}
        kept = states.kept(after, self._config)
        figures = {other: own for other, own in after.items() if other in kept}
        saving = Saving(lambda: self._write(writer, step, kept), figures)
        if self._config.asynchronous:
            self._saving = saving
            saving.start()
        else:
            self._write(writer, step, kept)
            self._figures = figures
        self._saved_at = time.monotonic()
        self._interval_s = max(self._config.seconds, (self._saved_at - started) / SAVE_SHARE)

    def close(self) -> None:
        """Wait for what is still being written. Raises: what went wrong with it, unless another error ends the run."""
        dying = sys.exc_info()[0] is not None
        try:
            self._settle(last=True)
        except Exception as error:
            if not dying:
                raise
            self._warn(f"the last state was not written: {error}")

    def _look(self) -> Figures:
        """Figures of the whole states; what was left by a kill is removed. For the main process."""
        states.sweep(self._folder)
        found: Figures = {}
        problem: DamagedError | None = None
        for step in reversed(states.steps(self._folder)):
            try:
                found[step] = states.read_state(self._folder, step).record.figure
            except DamagedError as error:
                console.warn(f"{error.message}; it is not used")
                problem = problem or error
        if problem is not None and not found:
            raise problem
        return found

    def _resume_at(self, state: State) -> None:
        self._latest = state.record.figure
        first = states.best(self._figures)
        self._best = math.inf if first is None else self._figures[first] or 0.0
        self._peers.made(lambda: self._cut_logs(state.record.logs))

    def _cut_logs(self, lengths: dict[str, int]) -> None:
        """Shorten every log to its recorded length; one without is removed, one that is too short is left as it is."""
        for log in self._logs:
            with disk_errors(log):
                if log.name not in lengths:
                    log.unlink(missing_ok=True)
                elif log.exists() and log.stat().st_size > lengths[log.name]:
                    os.truncate(log, lengths[log.name])

    def _header(self, model: nn.Module, step: int) -> StateRecord:
        shape = getattr(model, "config", None)
        return StateRecord(
            step=step,
            figure=self._latest,
            logs={path.name: path.stat().st_size for path in self._logs if path.exists()},
            keep=self._config.model_dump(mode="json"),
            model=shape.model_dump(mode="json") if isinstance(shape, ModelConfig) else None,
        )

    def _write(self, writer: StateWriter, step: int, kept: set[int]) -> None:
        """Write this process's share; the main one gives the whole its name and removes what is kept no longer."""
        try:
            self._writers.together(writer.flush, lambda: states.commit(self._folder, step, writer.record))
        except Exception:
            self._remove({step})
            raise
        self._remove(set(states.steps(self._folder)) - kept)

    def _remove(self, steps: set[int]) -> None:
        for step in steps if self._writers.is_main else ():
            states.remove(states.state_folder(self._folder, step))

    def _settle(self, *, last: bool) -> None:
        """Wait for the save in the background and learn how it ended."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        saving.join()
        if saving.error is None:
            self._figures = saving.figures
            return
        self._best = min((own for own in self._figures.values() if own is not None), default=math.inf)
        if last or not isinstance(saving.error, ArtifactError):
            raise saving.error
        newest = f"the last complete one is that of step {max(self._figures)}" if self._figures else "there is none yet"
        self._warn(f"a state could not be written: {saving.error.message}; {newest}, and training goes on")

    def _warn(self, text: str) -> None:
        if self._peers.is_main:
            console.warn(text)
