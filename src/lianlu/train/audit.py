"""The audit of a step: its loss and gradient computed a second time, every example by itself, must be the same.

Packing, micro-batches and the division of work are ways to save time and must not show in the result; here a run checks that
on its own data, on its own machine. Dropout is off in both passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lianlu.core.errors import EngineError
from lianlu.train.checkpoint.state import trainable
from lianlu.train.parallel.layout import Layout

# relative differences allowed, by the number type of the products
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}


class Audited(Protocol):
    """A step: this process's micro-batches, the examples each is made of, and the most examples any process has."""

    own: list[list[Any]]
    most_examples: int
    batches: list[Any]


class Auditor(Protocol):
    """The part of a task that an audit needs."""

    def collate(self, examples: Sequence[Any], /) -> Any: ...

    def loss(self, model: Any, batch: Any, /) -> Tensor: ...


def audit_step(model: nn.Module, task: Auditor, step: Audited, layout: Layout) -> None:
    """Compare the step with its examples one by one; leaves no gradients. Raises: EngineError if they differ."""
    model.eval()
    alone = [[example] for part in step.own for example in part]
    alone += [[]] * (step.most_examples - len(alone))
    loss, gradient = _computed(model, task, step.batches, layout)
    wanted_loss, wanted = _computed(model, task, [task.collate(part) for part in alone], layout)
    tolerance = TOLERANCE[layout.dtype]
    apart = layout.norm([a - b for a, b in zip(gradient, wanted, strict=True)]) / max(layout.norm(wanted), 1e-12)
    loss_apart = abs(loss - wanted_loss) / max(abs(wanted_loss), 1e-12)
    if not (loss_apart <= tolerance and apart <= tolerance):
        message = f"the audit failed: packed and alone, a step's loss differs by {loss_apart:.2e}, its gradient by {apart:.2e}"
        raise EngineError(
            message, hint=f"at most {tolerance:.0e} is rounding; please report it with the configuration of the run"
        )


def _computed(model: nn.Module, task: Auditor, batches: Sequence[Any], layout: Layout) -> tuple[float, list[Tensor]]:
    loss = layout.accumulate(model, batches, task.loss)
    gradient = [p.grad.clone() for p in trainable(model).values() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return loss, gradient
