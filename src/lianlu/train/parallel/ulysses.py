"""Sequence parallelism: the tokens of a micro-batch are divided over a group of processes, attention over heads instead.

Each process computes a contiguous share of the tokens. For attention one all-to-all turns "some tokens, all heads" into "all
tokens, some heads", so that ordinary packed attention runs over whole sequences, and a second one turns its output back
(DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv 2309.14509). Nothing else in a model looks at other tokens. Where there are
fewer key-value heads than processes, they are repeated until each process has one.

The loss of a process is that of its tokens; loss and gradients are sums over the group like those over other processes.

Shapes: t tokens of this process, T = t P tokens of the group, P processes, H query heads, G key-value heads, E key-value
heads after repeating, K head_dim, M = (H + 2 E) / P heads that a process gets.
"""

from __future__ import annotations

from math import lcm

import torch
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh

from lianlu.core.errors import EngineError
from lianlu.kernels.attention import PackedCausal
from lianlu.train.packing import Packed, filled


def share(batch: Packed, mesh: DeviceMesh) -> Packed:
    """This process's part of a batch, which is filled up with tokens without targets to a multiple of the group."""
    whole = filled(batch, mesh.size())
    if not isinstance(whole.attend, PackedCausal):
        raise EngineError("only packed batches can be divided over sequence parallel processes")
    size = whole.num_tokens // mesh.size()
    own = slice(mesh.get_local_rank() * size, (mesh.get_local_rank() + 1) * size)
    ids_T, targets_T, positions_T, lengths_T = whole.input_ids, whole.targets, whole.positions, whole.lengths
    return Packed(ids_T[own], targets_T[own], positions_T[own], lengths_T[own], Ulysses(mesh, whole.attend))


class Ulysses:
    """The attention of tokens that are divided over the processes of a group."""

    def __init__(self, mesh: DeviceMesh, whole: PackedCausal) -> None:
        self._group = mesh.get_group()
        self._size = mesh.size()
        self._whole = whole

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
        size, num_queries = self._size, q_THK.shape[1] // self._size
        repeats = lcm(k_TGK.shape[1], size) // k_TGK.shape[1]
        k_tEK, v_tEK = (x.repeat_interleave(repeats, dim=1) if repeats > 1 else x for x in (k_TGK, v_TGK))
        parts = [x.view(len(x), size, -1, x.shape[2]) for x in (q_THK, k_tEK, v_tEK)]
        given_PtMK = torch.cat(parts, dim=2).transpose(0, 1)
        got_TMK = self._exchange(given_PtMK).flatten(0, 1)
        num_keys = k_tEK.shape[1] // size
        q_ThK, k_TeK, v_TeK = torch.split(got_TMK, [num_queries, num_keys, num_keys], dim=1)
        o_ThK = self._whole(layer, q_ThK.contiguous(), k_TeK, v_TeK)
        back_PthK = self._exchange(o_ThK.view(size, len(q_THK), *o_ThK.shape[1:]))
        return back_PthK.transpose(0, 1).flatten(1, 2)

    def _exchange(self, given_P: Tensor) -> Tensor:
        """Part p of the first axis goes to process p; what comes lies in the order of the processes."""
        got: Tensor = all_to_all_single_autograd(given_P.contiguous(), None, None, self._group)
        return got
