"""Muon (Jordan 2024): the running mean of a matrix's gradient, made orthogonal by Newton-Schulz iterations, is the update.

The update is scaled by `0.2 sqrt(max(rows, columns))`, which gives it the size of AdamW's, and weight decay is decoupled
(Moonlight, arXiv 2502.16982). The numbers are those of `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")` on unfused layers:
what is fused here is taken apart, since gate and up, and query, key and value, are matrices of their own, and Jordan found
that they learn better so. State: `momentum_buffer`.

DTensors: in a round each process of the mesh gets the shards of one matrix from the others, makes it orthogonal, and gives
every process its part of the result. So the work is divided, also where the mesh repeats a parameter, and no process holds
more than one whole matrix. Matrices go by size, so that those of a round take equally long. A plain tensor is trained by
everyone who has it.

Shapes: M rows and N columns of one logical matrix, in the number type of the iterations.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lianlu.kernels.linear import linear
from lianlu.train.optim.adamw import State
from lianlu.train.optim.shards import Holding, Region, group_of, holdings, local
from lianlu.train.precision import compute_dtype

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TINY = 1e-7
RMS = 0.2

Job = tuple[Tensor, Mapping[str, Any]]


def new_state(parameter: Tensor) -> dict[str, Tensor]:
    """The state before the first step."""
    return {"momentum_buffer": torch.zeros_like(parameter)}


def orthogonalise(x_MN: Tensor, num_steps: int) -> Tensor:
    """A matrix near the nearest orthogonal one: singular values between about 0.7 and 1.2 (Jordan's quintic)."""
    if x_MN.shape[0] > x_MN.shape[1]:
        return orthogonalise(x_MN.T, num_steps).T
    a, b, c = COEFFICIENTS
    x_MN = x_MN / x_MN.norm().clamp(min=TINY)
    for _ in range(num_steps):
        if x_MN.dtype == torch.float32:
            # the linear layer's products take half of the time of `addmm` on processors without bfloat16; gram is symmetric
            gram_MM = linear(x_MN, x_MN)
            mixed_MM = linear(gram_MM, gram_MM).mul_(c).add_(gram_MM, alpha=b)
            x_MN = linear(x_MN.T, mixed_MM).T.add_(x_MN, alpha=a)
        else:
            gram_MM = x_MN @ x_MN.T
            x_MN = torch.addmm(x_MN, torch.addmm(gram_MM, gram_MM, gram_MM, beta=b, alpha=c), x_MN, beta=a)
    return x_MN


def orthogonal(whole: Tensor, rows: Sequence[int], num_steps: int) -> Tensor:
    """Each logical matrix of a parameter made orthogonal; `rows` as in `row_scales`."""
    done = [orthogonalise(part.reshape(-1, whole.shape[-1]), num_steps).view(part.shape) for part in _parts(whole, rows)]
    return torch.cat(done, dim=1).view(whole.shape)


def row_scales(shape: Sequence[int], rows: Sequence[int], device: torch.device) -> Tensor:
    """What gives each row of an orthogonal update AdamW's size; shape (.., 1).

    Rows take turns between logical matrices: the first `rows[0]` belong to the first, and so on, then from the beginning.
    An empty `rows` stands for one matrix.
    """
    scales = torch.empty(*shape[:-1], 1, device=device)
    for part in _parts(scales, rows):
        part.fill_(RMS * math.sqrt(max(part.shape[0] * part.shape[1], shape[-1])))
    return scales


def _parts(whole: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
    """Views (turns, rows, columns), one for each logical matrix."""
    num_rows = whole.numel() // whole.shape[-1]
    period = sum(rows) or num_rows
    yield from torch.split(whole.view(num_rows // period, period, whole.shape[-1]), list(rows) or [period], dim=1)


class MuonUpdate:
    """Muon's step for one optimiser; remembers which process holds what, and the groups they talk in."""

    def __init__(self) -> None:
        self._holdings: dict[Tensor, dict[int, Holding]] = {}
        self._groups: dict[tuple[int, ...], dist.ProcessGroup] = {}

    def __call__(self, groups: Sequence[Mapping[str, Any]], states: Mapping[Tensor, State]) -> None:
        """One step of every parameter that has a gradient."""
        shared: dict[dist.ProcessGroup, list[Job]] = defaultdict(list)
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if (holders := self._holders(parameter)) is None:
                    whole = _direction(parameter, states[parameter], group)
                    _apply(parameter, group, orthogonal(whole, group["rows"], group["newton_schulz_steps"]), None)
                else:
                    shared[holders].append((parameter, group))
        for holders, jobs in shared.items():
            jobs.sort(key=lambda job: -job[0].numel())
            for start in range(0, len(jobs), holders.size()):
                self._round(holders, jobs[start : start + holders.size()], states)

    def _holders(self, parameter: Tensor) -> dist.ProcessGroup | None:
        """The processes that hold the parameter, if there are several."""
        if not isinstance(parameter, DTensor) or parameter.device_mesh.size() == 1:
            return None
        if parameter not in self._holdings:
            self._holdings[parameter] = holdings(parameter)
        ranks = tuple(self._holdings[parameter])
        if ranks not in self._groups:
            self._groups[ranks] = group_of(parameter)
        return self._groups[ranks]

    def _round(self, holders: dist.ProcessGroup, jobs: Sequence[Job], states: Mapping[Tensor, State]) -> None:
        """One step of as many matrices as there are holders: the first is made orthogonal by the first holder, and so on."""
        me = dist.get_rank(holders)
        shards = [_direction(parameter, states[parameter], group) for parameter, group in jobs]
        held = [list(self._holdings[parameter].values()) for parameter, _ in jobs]
        nothing = shards[0].new_empty(0)
        # an owner puts a matrix together from one copy, its own, and sends the result to the holders of all copies
        sent = [
            shard if hold[me].copy == hold[owner].copy else nothing
            for owner, (shard, hold) in enumerate(zip(shards, held, strict=True))
        ]
        own = held[me] if me < len(jobs) else []
        got = [shards[0].new_empty(hold.region.shape) if hold.copy == own[me].copy else nothing for hold in own]
        _exchange(sent, got, holders)
        back = [torch.empty_like(shard) for shard in shards]
        _exchange(_joined(jobs[me], own, got) if own else [], back, holders)
        for (parameter, group), direction, hold in zip(jobs, back, held, strict=True):
            _apply(parameter, group, direction, hold[me].region)


def _joined(job: Job, held: Sequence[Holding], got: Sequence[Tensor]) -> list[Tensor]:
    """The pieces of a matrix put together and made orthogonal, and the part of the result that each holder needs."""
    parameter, group = job
    whole = next(piece for piece in got if piece.numel()).new_empty(parameter.shape)
    for hold, piece in zip(held, got, strict=True):
        if piece.numel():
            hold.region.of(whole).copy_(piece)
    whole = orthogonal(whole, group["rows"], group["newton_schulz_steps"])
    return [hold.region.of(whole).contiguous() for hold in held]


def _direction(parameter: Tensor, state: State, group: Mapping[str, Any]) -> Tensor:
    """This process's part of what is to be made orthogonal, after the running mean took the gradient in."""
    assert parameter.grad is not None
    grad, mean = local(parameter.grad), local(state["momentum_buffer"])
    mean.lerp_(grad, 1 - group["momentum"])
    ahead = grad.lerp(mean, group["momentum"]) if group["nesterov"] else mean
    return ahead.to(compute_dtype(group["precision"], grad.device))


def _apply(parameter: Tensor, group: Mapping[str, Any], direction: Tensor, region: Region | None) -> None:
    """Decay this process's part of the weights, and add its part of the orthogonal direction."""
    weight, lr = local(parameter), group["lr"]
    scales = row_scales(parameter.shape, group["rows"], weight.device)
    if region is not None:
        scales = Region((*region.shape[:-1], 1), (*region.offset[:-1], 0)).of(scales)
    weight.mul_(1 - lr * group["weight_decay"]).sub_(direction.to(weight.dtype) * (lr * scales))


def _exchange(sent: Sequence[Tensor], got: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """`sent[i]` goes to the i-th process of the group, `got[i]` is filled by it; nothing is sent of an empty tensor."""
    me, ends = dist.get_rank(group), []
    for op, tensors in ((dist.isend, sent), (dist.irecv, got)):
        for peer, tensor in enumerate(tensors):
            if tensor.numel() and peer != me:
                ends.append(dist.P2POp(op, tensor.contiguous(), group=group, group_peer=peer))
    if me < len(sent) and me < len(got):
        got[me].copy_(sent[me])
    for work in dist.batch_isend_irecv(ends) if ends else []:
        work.wait()
