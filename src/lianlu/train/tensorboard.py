"""TensorBoard events: the figures of metrics.jsonl and the text samples, for those who watch runs there.

Every record is on disk when a call returns, like the lines of metrics.jsonl. A continued run writes a new file that takes
back (`purge_step`) what a killed one wrote after its last state, so that no step is there twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lianlu.core.errors import MissingExtraError

GROUPS = {
    "train": ("loss", "grad_norm", "lr", "tokens"),
    "speed": ("tokens_per_s", "mfu", "seconds", "wait_s", "wait_share"),
    "memory": ("memory_bytes", "peak_memory_bytes"),
}
TAGS = {name: f"{group}/{name}" for group, names in GROUPS.items() for name in names}


class Events:
    """The event file of one process's run, from after `step` on."""

    def __init__(self, folder: Path, step: int) -> None:
        """Raises: MissingExtraError where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            hint = "pip install 'lianlu[tensorboard]', or leave tensorboard = true out"
            raise MissingExtraError("TensorBoard is not installed", hint=hint) from error
        # figures are logged under the number of steps done: 0 is what was evaluated before the first
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)

    def scalars(self, step: int, figures: Mapping[str, Any]) -> None:
        """Write the figures that are numbers; those that no group names were evaluated on held-out text."""
        for name, value in figures.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(TAGS.get(name, f"held_out/{name}"), value, step)
        self._writer.flush()

    def text(self, step: int, number: int, text: str) -> None:
        """Write a text sample."""
        self._writer.add_text(f"samples/{number}", text, step)
        self._writer.flush()

    def close(self) -> None:
        """Nothing more will come."""
        self._writer.close()
