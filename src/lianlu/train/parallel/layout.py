"""What the processes of one run are to each other: who sees which tokens, who holds which weights, how sums are formed.

The loop talks to a `Layout` and to nothing else about parallelism; model files know nothing of it. One process alone has
the trivial layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from lianlu.train.config import TrainConfig
from lianlu.train.precision import compute_dtype, mixed, pick_device

M = TypeVar("M", bound=nn.Module)
B = TypeVar("B")


class Layout:
    """One process among those of a run."""

    def __init__(self, config: TrainConfig) -> None:
        self.device = pick_device()
        self.dtype = compute_dtype(config.precision, self.device)
        self.num_ranks, self.rank = 1, 0
        self.num_data, self.data_rank = 1, 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and results."""
        return self.rank == 0

    def accumulate(self, model: M, batches: Sequence[B], loss: Callable[[M, B], Tensor]) -> float:
        """Add the gradients of the summed loss over this process's micro-batches; returns the sum over all processes."""
        sums: list[Tensor] = []
        for batch in batches:
            with mixed(self.dtype, self.device):
                total = loss(model, batch)
            torch.autograd.backward(total)
            sums.append(total.detach())
        return self.total(float(torch.stack(sums).double().sum()) if sums else 0.0)

    def total(self, value: float) -> float:
        """The sum of a figure over the processes that see different tokens."""
        return value

    def norm(self, values: Sequence[Tensor]) -> float:
        """The global L2 norm of gradients or the like, each element counted once."""
        return float(torch.nn.utils.get_total_norm(values)) if values else 0.0

    def wait(self) -> None:
        """Until all processes are here."""
