"""When the state of a run is written, and which states are kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lianlu.train.checkpoint.state import restore_state, save_state
from lianlu.train.config import CheckpointConfig
from lianlu.train.parallel.layout import Layout

SAVE_SHARE = 0.05


class Checkpoints:
    """The states of one run in `folder`; `logs` are the files that grow with it and are cut back when it continues."""

    def __init__(self, folder: Path, config: CheckpointConfig, layout: Layout, logs: Sequence[Path]) -> None:
        self._folder, self._config, self._layout, self._logs = folder, config, layout, logs
        self._saved_at, self._interval_s = time.monotonic(), config.seconds

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest whole state; returns the next step, 0 where there is none."""
        return restore_state(self._folder, model, optimizer, self._logs)

    def due(self, step: int) -> bool:
        """Whether to write the state now: by step, else by the clock. All processes agree."""
        if self._config.every:
            return step % self._config.every == 0
        return time.monotonic() - self._saved_at >= self._interval_s

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, figure: float | None) -> None:
        """Write the state before `step`; `figure` is the latest held-out one (lower is better), if there was one."""
        started = time.monotonic()
        save_state(self._folder, model, optimizer, step, self._logs)
        self._saved_at = time.monotonic()
        self._interval_s = max(self._config.seconds, (self._saved_at - started) / SAVE_SHARE)

    def close(self) -> None:
        """Wait for what is still being written."""
