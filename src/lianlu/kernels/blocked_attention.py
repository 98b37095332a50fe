"""Causal attention in bfloat16 on a processor: products of whole matrices, a block of queries at a time.

PyTorch's flash kernel for the processor works on pieces so small that bfloat16 brings it nothing. Here a block of BLOCK
queries meets all keys up to its last one in one product, so that nearly half of the square is never computed and the scores
of a block stay in the cache. Scores and softmax are fp32; probabilities are rounded once, to bfloat16, for the product with
the values. The backward pass computes the scores again and adds up the gradients of keys and values in fp32. Forward and
backward of 128 to 512 tokens take half to three quarters of the time of the flash kernel (bench/train.py, docs/log.md).

Shapes: G key-value heads, Q queries per KV head, S tokens, K head_dim, B queries of a block, E keys up to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128


def blocked_attention(q_GQSK: Tensor, k_GSK: Tensor, v_GSK: Tensor) -> Tensor:
    """o_GQSK in the dtype of the inputs; differentiable once."""
    return _Blocked.apply(q_GQSK.contiguous(), k_GSK.contiguous(), v_GSK.contiguous())  # type: ignore[no-untyped-call,no-any-return]


@torch.library.custom_op("lianlu::blocked_attention", mutates_args=())
def _attended(q_GQSK: Tensor, k_GSK: Tensor, v_GSK: Tensor) -> Tensor:
    """The forward pass, one operation for those who decide what to keep of it."""
    o_GQSK = torch.empty_like(q_GQSK)
    with torch.autocast("cpu", enabled=False):
        for start, end in _blocks(q_GQSK):
            p_GRE = _probabilities(q_GQSK, k_GSK, start, end).to(q_GQSK.dtype)
            o_GQSK[:, :, start:end] = _by_query(torch.bmm(p_GRE, v_GSK[:, :end]), q_GQSK)
    return o_GQSK


@_attended.register_fake
def _(q_GQSK: Tensor, k_GSK: Tensor, v_GSK: Tensor) -> Tensor:
    return torch.empty_like(q_GQSK)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_GQSK: Tensor, k_GSK: Tensor, v_GSK: Tensor) -> Tensor:
        ctx.save_for_backward(q_GQSK, k_GSK, v_GSK)
        o_GQSK: Tensor = _attended(q_GQSK, k_GSK, v_GSK)
        return o_GQSK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_GQSK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_GQSK, k_GSK, v_GSK = ctx.saved_tensors
        dq_GQSK = torch.empty_like(q_GQSK)
        dk_GSK, dv_GSK = (torch.zeros_like(x, dtype=torch.float32) for x in (k_GSK, v_GSK))
        with torch.autocast("cpu", enabled=False):
            for start, end in _blocks(q_GQSK):
                p_GRE = _probabilities(q_GQSK, k_GSK, start, end)
                grad_GRK, q_GRK = _rows(grad_GQSK, start, end), _rows(q_GQSK, start, end)
                dv_GSK[:, :end] += torch.bmm(p_GRE.to(q_GQSK.dtype).transpose(1, 2), grad_GRK)
                dp_GRE = torch.bmm(grad_GRK, v_GSK[:, :end].transpose(1, 2)).float()
                ds_GRE = torch._softmax_backward_data(dp_GRE, p_GRE, -1, torch.float32)
                ds_GRE = ds_GRE.mul_(q_GQSK.shape[-1] ** -0.5).to(q_GQSK.dtype)
                dq_GQSK[:, :, start:end] = _by_query(torch.bmm(ds_GRE, k_GSK[:, :end]), q_GQSK)
                dk_GSK[:, :end] += torch.bmm(ds_GRE.transpose(1, 2), q_GRK)
        return dq_GQSK, dk_GSK.to(k_GSK.dtype), dv_GSK.to(v_GSK.dtype)


def _blocks(q_GQSK: Tensor) -> Iterator[tuple[int, int]]:
    num_tokens = q_GQSK.shape[2]
    return ((start, min(start + BLOCK, num_tokens)) for start in range(0, num_tokens, BLOCK))


def _rows(x_GQSK: Tensor, start: int, end: int) -> Tensor:
    """A block of all queries of a KV head, one behind the other: x_GRK with R = Q B."""
    return x_GQSK[:, :, start:end].reshape(len(x_GQSK), -1, x_GQSK.shape[-1])


def _by_query(x_GRK: Tensor, q_GQSK: Tensor) -> Tensor:
    return x_GRK.view(len(x_GRK), q_GQSK.shape[1], -1, x_GRK.shape[-1])


def _probabilities(q_GQSK: Tensor, k_GSK: Tensor, start: int, end: int) -> Tensor:
    """p_GRE in fp32 of one block of queries over the keys up to its end."""
    q_GRK = _rows(q_GQSK, start, end).float() * q_GQSK.shape[-1] ** -0.5
    scores_GRE = torch.bmm(q_GRK, k_GSK[:, :end].float().transpose(1, 2))
    own_GQBB = _by_query(scores_GRE, q_GQSK)[..., start:]
    own_GQBB += torch.full((end - start, end - start), -torch.inf).triu_(1)
    return torch.softmax(scores_GRE, -1)
