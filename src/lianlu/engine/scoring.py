"""Log-probabilities of given tokens: packed prompts through the model once, no keys and values kept.

Inputs go in groups of consecutive ones, up to `GROUP_TOKENS` new tokens. Within a group, what two inputs have in common at
their beginning is computed once: the four answers to one question, or the questions after the same examples. The rest
of an input looks back at the rows it shares. Logits are computed for the rows that are scored only, a few at a time, so
that a large vocabulary takes no memory to speak of. A token's number is the same to the bit as when it is generated.

Shapes: T rows of a group, N scored rows, H query heads, G key-value heads, K head_dim, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lianlu.kernels import sampling
from lianlu.kernels.paged_attention import KEYS, ROWS, chunk_attention, round_up
from lianlu.model.decoder import Decoder

GROUP_TOKENS = 4096
GROUP_INPUTS = 64
MIN_SHARED = 8
HEAD_ROWS = 128
Ids = NDArray[np.int64]


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


@dataclass(frozen=True)
class _Segment:
    """Rows `begin:end` of a group: what an input does not share; `rows` are those of the whole input, shared ones included."""

    begin: int
    end: int
    rows: Tensor
    num_keys: int


@dataclass
class _Group:
    """Inputs that go through the model together: where each token of each of them lies."""

    rows_of: list[Ids] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    segments: list[_Segment] = field(default_factory=list)
    seen: list[Ids] = field(default_factory=list)

    def add(self, ids: Ids) -> None:
        """Append an input; what it shares with an earlier one is not repeated."""
        shared, owner = max(((_common(ids, other), -index) for index, other in enumerate(self.seen)), default=(0, 0))
        if shared < MIN_SHARED:
            shared = 0
        begin, end = len(self.ids), len(self.ids) + len(ids) - shared
        head = self.rows_of[-owner][:shared] if shared else np.empty(0, dtype=np.int64)
        rows = np.concatenate((head, np.arange(begin, end)))
        self.seen.append(ids)
        self.rows_of.append(rows)
        if end > begin:
            self.ids += ids[shared:].tolist()
            self.positions += range(shared, len(ids))
            self.lengths += [len(ids)] * (end - begin)
            padded = np.concatenate((rows, np.full(-len(rows) % KEYS, rows[0])))
            self.segments.append(_Segment(begin, end, torch.from_numpy(padded), len(rows)))


def _common(one: Ids, other: Ids) -> int:
    """Length of the common beginning."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size


def score_tokens(model: Decoder, targets: Sequence[Target], num_top: int = 0) -> Iterator[TokenScores]:
    """Scores of the targets in order, group by group; `num_top` alternatives for every token."""
    for group in groups(targets):
        yield from score_group(model, group, num_top)


def groups(targets: Sequence[Target]) -> Iterator[Sequence[Target]]:
    """Cut a list into the groups that are computed together; depends on the list alone."""
    begin, size = 0, 0
    for index, target in enumerate(targets):
        before = targets[index - 1].ids if index > begin else ()
        new = len(target.ids) - _common(np.asarray(target.ids), np.asarray(before))
        if index > begin and (size + new > GROUP_TOKENS or index - begin >= GROUP_INPUTS):
            yield targets[begin:index]
            begin, size, new = index, 0, len(target.ids)
        size += new
    if begin < len(targets):
        yield targets[begin:]


@torch.inference_mode()
def score_group(model: Decoder, targets: Sequence[Target], num_top: int = 0) -> list[TokenScores]:
    """Scores of a few targets that go through the model as one batch."""
    group = _Group()
    for target in targets:
        assert 0 < target.first <= len(target.ids), "the first token has nothing before it"
        group.add(np.asarray(target.ids[:-1], dtype=np.int64))
    h_TD = _hidden(model, group)
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


def _hidden(model: Decoder, group: _Group) -> Tensor:
    """h_TD of the rows of a group."""
    device = next(model.parameters()).device
    fill = round_up(len(group.ids), ROWS) - len(group.ids)
    ids_T, positions_T, lengths_T = torch.tensor(
        [group.ids + [0] * fill, group.positions + [0] * fill, group.lengths + [1] * fill], device=device
    )
    segments = [_Segment(s.begin, s.end, s.rows.to(device), s.num_keys) for s in group.segments]

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
        o_THK = torch.zeros_like(q_THK)
        for part in segments:
            k_LGK, v_LGK = k_TGK.index_select(0, part.rows), v_TGK.index_select(0, part.rows)
            o_THK[part.begin : part.end] = chunk_attention(q_THK[part.begin : part.end], k_LGK, v_LGK, part.num_keys)
        return o_THK

    return model.hidden(ids_T, positions_T, attend, lengths_T)
