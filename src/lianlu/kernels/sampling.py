"""From logits to tokens: greedy, temperature, top-k, top-p, min-p; and log-probabilities with alternatives.

A token is drawn by one number in [0, 1) that is a hash of the request's seed and of the token's place in the reply. So a
seed gives the same reply whatever else is sampled in the same call, and nothing has to be remembered to continue after
a preemption. Order as in transformers: temperature, then top-k, then top-p over what top-k left, then min-p, which drops
what is less likely than that share of the most likely token (Nguyen et al. 2024, arXiv 2407.01082). Log-probabilities are
those of the model, before temperature and cuts. A row's numbers do not depend on the number of rows: PyTorch's softmax
keeps to that, its sums do not (the sum of a single long row is split among threads).

Shapes: N rows, V vocab_size, C candidates of a row, A alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

NUCLEUS = 1024
"""Candidates that are sorted at first for top-p without top-k; the whole vocabulary if they do not hold enough."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is drawn: `temperature` > 0, `top_k` 0 for all, `top_p` 1 for all, `uniform` in [0, 1), `min_p` 0 for all."""

    temperature: float
    top_k: int
    top_p: float
    uniform: float
    min_p: float = 0.0


def uniform(seed: int, place: int) -> float:
    """The number in [0, 1) by which the token at `place` of a reply is drawn; 53 bits of a hash."""
    digest = blake2b(f"{seed}:{place}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def greedy(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely id of each row, the first of equals; and whether the row is sound (no NaN, not all -inf)."""
    best_N, ids_N = logits_NV.max(dim=-1)
    return ids_N, best_N.isfinite()


def sample(logits_NV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """ids_N drawn row by row; a row's id depends on its own logits and draw alone."""
    ids_N = torch.empty(len(draws), dtype=torch.int64, device=logits_NV.device)
    for top_k in sorted({draw.top_k for draw in draws}):
        rows = [row for row, draw in enumerate(draws) if draw.top_k == top_k]
        for nucleus in (False, True):
            chosen = [row for row in rows if (draws[row].top_p < 1.0) == nucleus]
            if chosen:
                ids_N[chosen] = _sample_alike(logits_NV[chosen], [draws[row] for row in chosen], top_k, nucleus)
    return ids_N


def _sample_alike(logits_NV: Tensor, draws: Sequence[Draw], top_k: int, nucleus: bool) -> Tensor:
    """`sample` for rows of the same top-k that all use top-p (`nucleus`) or all do not."""
    scaled_NV = logits_NV.float() / _column([draw.temperature for draw in draws], logits_NV)
    vocab_size = scaled_NV.shape[1]
    if not nucleus and not 0 < top_k < vocab_size:
        return _pick(scaled_NV.softmax(-1), draws)
    if 0 < top_k < vocab_size:
        best_NC, ids_NC = scaled_NV.topk(top_k, dim=-1)
        return ids_NC.gather(1, _cut(best_NC.softmax(-1), draws)[:, None])[:, 0]
    return _nucleus(scaled_NV, draws)


def _nucleus(scaled_NV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Top-p over the whole vocabulary; sorts no more of it than needed."""
    ids_NC = scaled_NV.topk(min(NUCLEUS, scaled_NV.shape[1]), dim=-1).indices
    p_NC = scaled_NV.softmax(-1).gather(1, ids_NC)
    ids_N = ids_NC.gather(1, _cut(p_NC, draws)[:, None])[:, 0]
    mass_N = p_NC.double().sum(-1).tolist()
    short = [row for row, draw in enumerate(draws) if mass_N[row] < draw.top_p and p_NC.shape[1] < scaled_NV.shape[1]]
    if short:
        p_NV, order_NV = scaled_NV[short].softmax(-1).sort(dim=-1, descending=True, stable=True)
        ids_N[short] = order_NV.gather(1, _cut(p_NV, [draws[row] for row in short])[:, None])[:, 0]
    return ids_N


def _cut(p_NC: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Index of the candidate drawn from the smallest beginning of `p_NC` (falling) whose mass reaches top-p."""
    before_NC = p_NC.double().cumsum(-1) - p_NC.double()
    top_p_N1 = _column([draw.top_p for draw in draws], p_NC).double()
    return _pick(p_NC.masked_fill((before_NC >= top_p_N1) & (before_NC > 0), 0.0), draws)


def _pick(p_NC: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Index of the candidate at which the running sum of `p_NC` passes the drawn share of its total; min-p drops some before."""
    if any(draw.min_p > 0 for draw in draws):
        p_NC = p_NC.masked_fill(p_NC < _column([draw.min_p for draw in draws], p_NC) * p_NC.amax(-1, keepdim=True), 0.0)
    sums_NC = p_NC.double().cumsum(-1)
    target_N1 = sums_NC[:, -1:] * torch.tensor([[draw.uniform] for draw in draws], dtype=torch.float64, device=p_NC.device)
    place_N = torch.searchsorted(sums_NC, target_N1, right=True)[:, 0]
    last_N = (p_NC > 0).int().cumsum(-1).argmax(-1)
    return torch.minimum(place_N, last_N)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def logprobs(logits_NV: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability (nats, fp32) of the given id of each row, and whether it is the most likely one."""
    own_N = logits_NV.float().log_softmax(-1).gather(1, ids_N[:, None])[:, 0]
    return own_N, logits_NV.argmax(-1) == ids_N


def alternatives(logits_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most likely ids of each row, falling, and their log-probabilities."""
    if count == 0:
        return torch.empty(len(logits_NV), 0, dtype=torch.int64), torch.empty(len(logits_NV), 0)
    ids_NA = logits_NV.topk(min(count, logits_NV.shape[1]), dim=-1).indices
    return ids_NA, logits_NV.float().log_softmax(-1).gather(1, ids_NA)
