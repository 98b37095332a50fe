"""Log-probabilities of given tokens: packed prompts through the model once, no keys and values kept.

Inputs go in groups of up to `GROUP_TOKENS` new tokens, in which common beginnings are computed once (`packing`). Logits are
computed for the rows that are scored only, a few at a time, so that a large vocabulary takes no memory to speak of. A
token's number is the same to the bit as when it is generated.

Shapes: T rows of a group, N scored rows, A alternatives, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lianlu.engine.packing import Group, cuts, hidden
from lianlu.kernels import sampling
from lianlu.kernels.kv_codec import Codec
from lianlu.kernels.paged_attention import ROWS
from lianlu.model.decoder import Decoder

GROUP_TOKENS = 4096
GROUP_INPUTS = 64
HEAD_ROWS = 128


@dataclass(frozen=True)
class Target:
    """Token ids of which those from `first` on are scored, each after all before it; `first` > 0."""

    ids: tuple[int, ...]
    first: int


@dataclass
class TokenScores:
    """For each scored token: log-probability (nats), whether it is the most likely, and alternatives if asked for."""

    logprobs: list[float] = field(default_factory=list)
    is_greedy: list[bool] = field(default_factory=list)
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)


def score_tokens(
    model: Decoder, targets: Sequence[Target], num_top: int = 0, codec: Codec | None = None
) -> Iterator[TokenScores]:
    """Scores of the targets in order, group by group; `num_top` alternatives for every token.

    `codec` is how the engine that generates keeps keys and values, so that scores are what it would compute.
    """
    for group in groups(targets):
        yield from score_group(model, group, num_top, codec)


def groups(targets: Sequence[Target]) -> Iterator[Sequence[Target]]:
    """Cut a list into the groups that are computed together; depends on the list alone."""
    for part in cuts([target.ids for target in targets], GROUP_TOKENS, GROUP_INPUTS):
        yield targets[part]


@torch.inference_mode()
def score_group(model: Decoder, targets: Sequence[Target], num_top: int = 0, codec: Codec | None = None) -> list[TokenScores]:
    """Scores of a few targets that go through the model as one batch."""
    group = Group.of(model)
    for target in targets:
        assert 0 < target.first <= len(target.ids), "the first token has nothing before it"
        group.add(np.asarray(target.ids[:-1], dtype=np.int64))
    h_TD = hidden(model, group, codec)
    wanted = [(i, t) for i, target in enumerate(targets) for t in range(target.first, len(target.ids))]
    places = [(int(group.rows_of[i][t - 1]), i, t) for i, t in wanted]
    scores = [TokenScores() for _ in targets]
    for begin in range(0, len(places), HEAD_ROWS):
        chosen = places[begin : begin + HEAD_ROWS]
        rows = [row for row, _, _ in chosen]
        logits_NV = model.head(h_TD[rows + rows[-1:] * (-len(rows) % ROWS)])[: len(rows)]
        ids_N = torch.tensor([targets[i].ids[t] for _, i, t in chosen], device=logits_NV.device)
        _note(scores, [i for _, i, _ in chosen], logits_NV, ids_N, num_top)
    return scores


def _note(scores: list[TokenScores], owners: Sequence[int], logits_NV: Tensor, ids_N: Tensor, num_top: int) -> None:
    """Put the numbers of some rows to their owners."""
    own_N, greedy_N = sampling.logprobs(logits_NV, ids_N)
    top_ids_NA, top_NA = sampling.alternatives(logits_NV, num_top)
    rows = zip(owners, own_N.tolist(), greedy_N.tolist(), top_ids_NA.tolist(), top_NA.tolist(), strict=True)
    for owner, logprob, is_greedy, ids, values in rows:
        scores[owner].logprobs.append(logprob)
        scores[owner].is_greedy.append(is_greedy)
        scores[owner].alternatives.append(list(zip(ids, values, strict=True)))
