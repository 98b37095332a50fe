"""Embedding and output layer divided over the vocabulary, with the cross-entropy that goes with them.

Each process holds the rows of a range of ids. An id outside of it is looked up as zero, and the sum over the group is the
embedding. The loss needs, of each row of logits, the maximum, the sum of exponentials and the target's logit: these are
reduced over the group, a block of rows at a time, and the logits themselves never leave the process that made them. As in
`kernels.cross_entropy`, the one-process op, gradients are made in the same pass; that of the hidden states is summed over the
group once, at the end.

Shapes: T tokens, N tokens with a target, C rows of a block, D hidden_size, V rows of this process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn import functional as F

from lianlu.kernels.cross_entropy import IGNORE, masked_cross_entropy, scaled
from lianlu.kernels.linear import linear
from lianlu.model.decoder import Decoder
from lianlu.train.parallel.divided import divided, leave, local

BLOCK_ROWS = 512


class VocabEmbedding(nn.Module):
    """An embedding of which each process holds a range of ids."""

    def __init__(self, whole: nn.Embedding, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight = divided(whole.weight, mesh, Shard(0))
        self._mesh = mesh
        self._rows = whole.num_embeddings // mesh.size()
        self._first = mesh.get_local_rank() * self._rows

    def forward(self, ids_T: Tensor) -> Tensor:
        """x_TD, the same on all processes of the group."""
        own_T = (ids_T >= self._first) & (ids_T < self._first + self._rows)
        found_TD = F.embedding((ids_T - self._first).where(own_T, 0), local(self.weight)) * own_T[:, None]
        return leave(found_TD, self._mesh)


def head_weight(model: Decoder) -> tuple[Tensor, DeviceMesh | None]:
    """The rows of the output matrix that this process holds, and the group that holds the others (None: there are none)."""
    stored = model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight
    if not isinstance(stored, DTensor):
        return model.head_weight(), None
    weight_VD = stored.to_local()
    return (F.normalize(weight_VD, dim=1) if model.config.norm_head else weight_VD), stored.device_mesh


def summed_loss(model: Decoder, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
    """Summed cross-entropy in nats (fp32, 0-d) of the model's output layer against `targets_T` (IGNORE: no target)."""
    weight_VD, mesh = head_weight(model)
    if mesh is None:
        return masked_cross_entropy(hidden_TD, weight_VD, targets_T)[0]
    rows_N = (targets_T != IGNORE).nonzero().squeeze(1)
    if torch.is_autocast_enabled(hidden_TD.device.type):
        hidden_TD = hidden_TD.to(torch.get_autocast_dtype(hidden_TD.device.type))
    return _loss(hidden_TD[rows_N], weight_VD, targets_T[rows_N], mesh, torch.is_grad_enabled())


def last_logits(model: Decoder, hidden_ND: Tensor) -> Tensor:
    """logits_NV over the whole vocabulary, on every process."""
    weight_VD, mesh = head_weight(model)
    if mesh is None:
        return model.head(hidden_ND)
    own_NV = linear(hidden_ND, weight_VD)
    return DTensor.from_local(own_NV.contiguous(), mesh, [Shard(1)], run_check=False).full_tensor()


class _VocabCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, mesh: DeviceMesh, grad: bool) -> Tensor:
        need_hidden, need_weight = (grad and wanted for wanted in ctx.needs_input_grad[:2])
        group = mesh.get_group()
        with torch.autocast(hidden_ND.device.type, enabled=False):
            used_VD = weight_VD.to(hidden_ND.dtype)
            grad_ND = torch.empty_like(hidden_ND) if need_hidden else None
            grad_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device) if need_weight else None
            total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
            targets_N = targets_N - mesh.get_local_rank() * len(weight_VD)
            for start in range(0, len(hidden_ND), BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                block = _Block(hidden_ND[rows], used_VD, targets_N[rows], group)
                total += block.loss
                block.gradients(None if grad_ND is None else grad_ND[rows], grad_VD)
            if grad_ND is not None and len(grad_ND):
                dist.all_reduce(grad_ND, group=group)
        ctx.save_for_backward(grad_ND, None if grad_VD is None else grad_VD.to(weight_VD.dtype))
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return scaled(grad_ND, grads[0]), scaled(grad_VD, grads[0]), None, None, None


_loss: Callable[..., Tensor] = _VocabCrossEntropy.apply


class _Block:
    """Some rows: their summed loss, the same on all processes of the group, and this process's share of the gradients."""

    def __init__(self, hidden_CD: Tensor, weight_VD: Tensor, targets_C: Tensor, group: dist.ProcessGroup) -> None:
        self._hidden_CD, self._weight_VD = hidden_CD, weight_VD
        logits_CV = (hidden_CD @ weight_VD.T).float()
        self._own_C1 = ((targets_C >= 0) & (targets_C < len(weight_VD)))[:, None]
        self._targets_C1 = targets_C[:, None].where(self._own_C1, 0)
        most_C1 = logits_CV.amax(dim=1, keepdim=True)
        dist.all_reduce(most_C1, dist.ReduceOp.MAX, group=group)
        logits_CV -= most_C1
        wanted_C1 = logits_CV.gather(1, self._targets_C1) * self._own_C1
        sums_C2 = torch.cat([logits_CV.exp_().sum(dim=1, keepdim=True), wanted_C1], dim=1)
        dist.all_reduce(sums_C2, group=group)
        self._weights_CV = logits_CV
        self._normaliser_C1 = sums_C2[:, :1]
        self.loss = (self._normaliser_C1.log() - sums_C2[:, 1:]).sum(dtype=torch.float64)

    def gradients(self, grad_CD: Tensor | None, grad_VD: Tensor | None) -> None:
        """Write those of the rows and add to those of the weight, where they are wanted."""
        if grad_CD is None and grad_VD is None:
            return
        slope_CV = self._weights_CV.div_(self._normaliser_C1)
        slope_CV.scatter_add_(1, self._targets_C1, -self._own_C1.to(slope_CV.dtype))
        slope_CV = slope_CV.to(self._hidden_CD.dtype)
        if grad_CD is not None:
            torch.mm(slope_CV, self._weight_VD, out=grad_CD)
        if grad_VD is not None:
            grad_VD += slope_CV.T @ self._hidden_CD
