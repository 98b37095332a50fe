"""Output layer and cross-entropy in one op, a block of rows at a time: the last step of every training loss.

Logits of a whole batch never exist: a block's logits are turned into losses, and where gradients are wanted into the
gradients of hidden states and weight at once, so that the backward pass only scales them. Products run in the dtype of
`hidden` (bf16 under autocast), softmax, losses and the gradient of the weight are fp32. Rows without a target are dropped
before the output layer, not multiplied by zero.

PyTorch's own `linear_cross_entropy` (2.13) gives the same numbers in fp32, but its blocked path was slower than the plain one
in every bf16 case tried on a CPU, so it is not used.

Shapes: T tokens, N tokens with a target, C rows of a block, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

IGNORE = -100
# Rows of a block: few while the weight stays in the cache, so that the logits do too; more where it has to be read anew.
CACHED_WEIGHTS = 1 << 22
SMALL_BLOCK, LARGE_BLOCK = 128, 512
# Rows whose logits are widened at once: few, so that they stay in the cache and their memory is used again.
WIDE_ROWS = 32
# Logits of a block under a frozen weight: each block then costs no pass over a gradient of the weight, so memory decides.
FROZEN_LOGITS = 1 << 24
# The rows of a block are a multiple of this.
ROW_STEP = 32


def masked_cross_entropy(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> tuple[Tensor, int]:
    """Sum in nats (fp32, 0-d) and number of targets of `hidden_TD @ weight_VD.T` against `targets_T` (IGNORE: no target)."""
    rows_N = (targets_T != IGNORE).nonzero().squeeze(1)
    if len(rows_N) == 0:
        return (hidden_TD[:0].sum() + weight_VD[:0].sum()).float(), 0
    if len(rows_N) < len(targets_T):
        hidden_TD, targets_T = hidden_TD[rows_N], targets_T[rows_N]
    return linear_cross_entropy(hidden_TD, weight_VD, targets_T), len(rows_N)


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Summed cross-entropy in nats (fp32, 0-d) of the logits `hidden_ND @ weight_VD.T`; every row has a target in [0, V)."""
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        hidden_ND = hidden_ND.to(torch.get_autocast_dtype(device))
    return _loss(hidden_ND, weight_VD, targets_N, torch.is_grad_enabled())


def block_rows(vocab_size: int, hidden_size: int, frozen: bool) -> int:
    """Rows whose logits are there at once; under a frozen weight they take 64 MB at most, or are 32."""
    if vocab_size * hidden_size <= CACHED_WEIGHTS:
        return SMALL_BLOCK
    fitting = max(ROW_STEP, FROZEN_LOGITS // vocab_size // ROW_STEP * ROW_STEP)
    return min(LARGE_BLOCK, fitting) if frozen else LARGE_BLOCK


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, grad: bool) -> Tensor:
        need_hidden, need_weight = (grad and wanted for wanted in ctx.needs_input_grad[:2])
        # oneDNN keeps machine code for every number of rows it has met: there are few if the last block is rounded up
        if rest := -len(hidden_ND) % ROW_STEP:
            hidden_ND = pad(hidden_ND, (0, 0, 0, rest))
        with torch.autocast(hidden_ND.device.type, enabled=False):
            used_VD = weight_VD.to(hidden_ND.dtype)
            grad_ND = torch.empty_like(hidden_ND) if need_hidden else None
            grad_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device) if need_weight else None
            total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
            block = block_rows(weight_VD.shape[0], weight_VD.shape[1], frozen=not need_weight)
            for start in range(0, len(hidden_ND), block):
                rows = slice(start, start + block)
                total += _block(hidden_ND[rows], used_VD, targets_N[rows], None if grad_ND is None else grad_ND[rows], grad_VD)
        ctx.save_for_backward(
            None if grad_ND is None else grad_ND[: len(targets_N)], None if grad_VD is None else grad_VD.to(weight_VD.dtype)
        )
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return scaled(grad_ND, grads[0]), scaled(grad_VD, grads[0]), None, None


def scaled(gradient: Tensor | None, scale: Tensor) -> Tensor | None:
    """A gradient made in the forward pass, times that of the loss. In place: a copy of the weight's is the largest of a step."""
    return None if gradient is None else gradient.mul_(scale.to(gradient.dtype))


_loss: Callable[..., Tensor] = _LinearCrossEntropy.apply


def _block(hidden_CD: Tensor, weight_VD: Tensor, targets_C: Tensor, grad_CD: Tensor | None, grad_VD: Tensor | None) -> Tensor:
    """Summed loss of one block; writes its rows of `grad_CD` and adds to `grad_VD` where they are given.

    Rows beyond the targets are padding.
    """
    logits_CV = hidden_CD @ weight_VD.T
    num_rows = len(targets_C)
    followed = grad_CD is not None or grad_VD is not None
    total = torch.zeros((), dtype=torch.float64, device=hidden_CD.device)
    for some_RV, targets_R in zip(torch.split(logits_CV[:num_rows], WIDE_ROWS), torch.split(targets_C, WIDE_ROWS), strict=True):
        total += _losses(some_RV, targets_R, followed)
    logits_CV[num_rows:] = 0.0
    if grad_CD is not None:
        torch.mm(logits_CV, weight_VD, out=grad_CD)
    if grad_VD is not None:
        grad_VD += logits_CV.T @ hidden_CD
    return total


def _losses(logits_RV: Tensor, targets_R: Tensor, followed: bool) -> Tensor:
    """Summed loss of a few rows, in fp32 whatever their dtype; where it is followed, logits become the gradients of the loss."""
    wide_RV = logits_RV.float()
    target_R1 = wide_RV.gather(1, targets_R[:, None])
    highest_R1 = wide_RV.amax(1, keepdim=True)
    wide_RV.sub_(highest_R1).exp_()
    sum_R1 = wide_RV.sum(1, keepdim=True)
    if followed:
        wide_RV.div_(sum_R1).scatter_add_(1, targets_R[:, None], torch.full_like(sum_R1, -1.0))
        logits_RV.copy_(wide_RV)
    return (sum_R1.log_() + highest_R1 - target_R1).sum(dtype=torch.float64)
