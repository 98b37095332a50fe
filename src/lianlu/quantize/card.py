"""The quality card: how far a changed model has moved from its original, token by token.

For every judged token of a held-out set: perplexity under both, how often both put the same token first, and the
Kullback-Leibler divergence of the new distribution from the original's, in nats. All in fp32.

Shapes: T tokens of a sequence, N judged tokens, C tokens of a block, D hidden_size, V vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import Decoder
from lianlu.quantize.sequences import Judged

BLOCK_TOKENS = 256


@dataclass(frozen=True)
class Snapshot:
    """What is kept of a model: hidden states before judged tokens (N, D), output matrix (V, D)."""

    hidden: Tensor
    head: Tensor


@torch.no_grad()
def snapshot(model: Decoder, sequences: Sequence[Judged]) -> Snapshot:
    """Run `model` over the sequences, one at a time."""
    rows = [_hidden(model, sequence) for sequence in sequences]
    return Snapshot(torch.cat(rows).float(), model.head_weight().detach().float().clone())


def _hidden(model: Decoder, sequence: Judged) -> Tensor:
    ids_T = torch.tensor(sequence.ids[:-1])
    hidden_TD = model.hidden(ids_T, torch.arange(len(ids_T)), PackedCausal([0, len(ids_T)]))
    return hidden_TD[torch.tensor(sequence.mask[1:])]


def targets(sequences: Sequence[Judged]) -> Tensor:
    """targets_N: the judged tokens themselves."""
    return torch.cat([torch.tensor(s.ids[1:])[torch.tensor(s.mask[1:])] for s in sequences])


@torch.no_grad()
def compare(before: Snapshot, after: Snapshot, targets_N: Tensor) -> dict[str, Any]:
    """Perplexities, top-1 agreement (share) and KL (nats, mean and largest) between two snapshots."""
    nats_before = nats_after = divergence = agreed = largest = 0.0
    for start in range(0, len(targets_N), BLOCK_TOKENS):
        rows = slice(start, start + BLOCK_TOKENS)
        old_CV = torch.log_softmax(before.hidden[rows] @ before.head.T, dim=1)
        new_CV = torch.log_softmax(after.hidden[rows] @ after.head.T, dim=1)
        wanted_C1 = targets_N[rows, None]
        nats_before -= float(old_CV.gather(1, wanted_C1).double().sum())
        nats_after -= float(new_CV.gather(1, wanted_C1).double().sum())
        agreed += int((old_CV.argmax(1) == new_CV.argmax(1)).sum())
        divergence_C = (old_CV.exp() * (old_CV - new_CV)).sum(1)
        divergence += float(divergence_C.double().sum())
        largest = max(largest, float(divergence_C.max()))
    count = len(targets_N)
    return {
        "judged_tokens": count,
        "perplexity_before": math.exp(nats_before / count),
        "perplexity": math.exp(nats_after / count),
        "top1_agreement": agreed / count,
        "kl_nats": max(divergence / count, 0.0),
        "max_kl_nats": largest,
    }
