"""AdamW with 8-bit states (Dettmers et al. 2022, arXiv 2110.02861) in plain PyTorch, for CPU, GPU and shards.

State of a parameter of shape (.., I): `exp_avg` and `exp_avg_sq` are codes in its own shape, `exp_avg_scale` and
`exp_avg_sq_scale` are fp32 of shape (.., ceil(I / 256)), `step` is on the CPU. All of it is divided between processes like the
parameter, except that scales are whole on the last axis: where processes divide that axis (tensor parallel), they agree on
the scale of a block they share. So the bytes of the state do not depend on the layout, and neither does the step, to the bit:
it is made of operations that round once, one row of blocks at a time.

The step is taken with the new mean and square before they are rounded to codes. A parameter goes through in runs of rows, so
that the wide temporaries stay small whatever its size. What is too small to matter or too uneven for 8 bits goes to
`adamw.py`; `build.py` decides.

Shapes: R rows of a run, I elements of a row here, B blocks of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lianlu.kernels.blockwise8 import BLOCK, dequantise, encode, extremes, num_blocks, scales_of
from lianlu.train.optim.adamw import State
from lianlu.train.optim.shards import column_groups, columns, local, zeros_by_row

MIN_ELEMENTS = 4096
CPU_RUN, GPU_RUN = 1 << 18, 1 << 24


def new_state(parameter: Tensor) -> dict[str, Tensor]:
    """The state before the first step."""
    state = {"step": torch.zeros(())}
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros_like(parameter, dtype=torch.uint8)
        state[f"{name}_scale"] = zeros_by_row(parameter, num_blocks(parameter.shape[-1]))
    return state


def update(groups: Sequence[Mapping[str, Any]], states: Mapping[Tensor, State]) -> None:
    """One step of every parameter that has a gradient."""
    for group in groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                _update_one(parameter, states[parameter], group)


def _update_one(parameter: Tensor, state: State, group: Mapping[str, Any]) -> None:
    state["step"] += 1
    step, (beta1, beta2), lr = float(state["step"]), group["betas"], group["lr"]
    rate, root, keep = lr / (1 - beta1**step), math.sqrt(1 - beta2**step), 1 - lr * group["weight_decay"]
    mean, square = _Codes(parameter, state, "exp_avg", signed=True), _Codes(parameter, state, "exp_avg_sq", signed=False)
    assert parameter.grad is not None
    rows = _rows(parameter)
    for run, (weight_RI, grad_RI) in enumerate(
        zip(_runs(local(parameter), rows), _runs(local(parameter.grad), rows), strict=True)
    ):
        wide_RI = grad_RI.float()
        mean_RI = mean.read(run).mul_(beta1).add_(wide_RI * (1 - beta1))
        square_RI = square.read(run).mul_(beta2).add_(wide_RI.square().mul_(1 - beta2))
        mean.write(run, mean_RI)
        square.write(run, square_RI)
        weight_RI.mul_(keep).sub_(mean_RI.div_(square_RI.sqrt_().div_(root).add_(group["eps"])).mul_(rate))


class _Codes:
    """One of the two states of a parameter, run by run."""

    def __init__(self, parameter: Tensor, state: State, name: str, signed: bool) -> None:
        codes, rows, start = local(state[name]), _rows(parameter), columns(parameter)
        self._signed, self._lead, self._groups = signed, start % BLOCK, column_groups(parameter)
        self._touched = slice(start // BLOCK, start // BLOCK + num_blocks(codes.shape[-1], self._lead))
        self._codes = list(_runs(codes, rows))
        self._scales = list(_runs(local(state[f"{name}_scale"]), rows))

    def read(self, run: int) -> Tensor:
        """x_RI in fp32."""
        return dequantise(self._codes[run], self._scales[run][:, self._touched], self._signed, self._lead)

    def write(self, run: int, x_RI: Tensor) -> None:
        """Replace a run; processes that divide its rows take part together."""
        scales_RB, found_2RB = self._scales[run], extremes(x_RI, self._lead)
        if self._groups:
            joined_2RB = scales_RB.new_zeros(2, *scales_RB.shape)
            joined_2RB[:, :, self._touched] = found_2RB
            for group in self._groups:
                dist.all_reduce(joined_2RB, dist.ReduceOp.MAX, group)
            found_2RB = joined_2RB
        scales_RB.copy_(scales_of(found_2RB))
        self._codes[run].copy_(encode(x_RI, scales_RB[:, self._touched], self._signed, self._lead))


def _rows(parameter: Tensor) -> int:
    """Rows of a run: the same for processes that divide rows between them."""
    return max((CPU_RUN if local(parameter).device.type == "cpu" else GPU_RUN) // parameter.shape[-1], 1)


def _runs(x: Tensor, rows: int) -> Iterator[Tensor]:
    """Views of `rows` rows, or of what is left, of the last two axes."""
    for matrix in [x] if x.ndim == 2 else x.flatten(0, -3).unbind():
        yield from torch.split(matrix, rows)
