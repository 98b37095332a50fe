"""How well a model foresees given tokens, without a cache.

For judging texts, where nothing is generated: sequences go through the decoder packed, in passes of up to `PASS_TOKENS`
tokens, on one thread. So a result does not depend on the cores of the machine, and a pool may run one process a core.

Shapes: T tokens of a pass, D hidden_size, N tokens with a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from lianlu.core.errors import RequestError
from lianlu.kernels.attention import PackedCausal, packed_positions
from lianlu.kernels.cross_entropy import linear_cross_entropy
from lianlu.model.decoder import Decoder

PASS_TOKENS = 4096
Sequenced = tuple[Sequence[int], int]
"""Token ids, and the place (at least 1) of the first that is to be foreseen."""


def bits(model: Decoder, sequences: Sequence[Sequenced]) -> list[float]:
    """Bits (-log2 of the likelihood) of `ids[first:]` given `ids[:first]`, for each sequence.

    Raises: RequestError for a sequence whose first token would have to be foreseen, or longer than the model's positions.
    """
    for ids, first in sequences:
        if first < 1:
            raise RequestError("nothing stands before the first token to be foreseen", hint="begin with a start token")
        _check_length(model, len(ids) - 1)
    found: list[float] = []
    with _quiet():
        weight_VD = model.head_weight()
        for some in _passes(sequences):
            hidden_TD = _hidden(model, [ids[:-1] for ids, _ in some])
            ends = accumulate((len(ids) - 1 for ids, _ in some), initial=0)
            for (ids, first), start in zip(some, ends, strict=False):
                rows_ND = hidden_TD[start + first - 1 : start + len(ids) - 1]
                nats = linear_cross_entropy(rows_ND, weight_VD, torch.tensor(ids[first:], dtype=torch.int64))
                found.append(float(nats) / math.log(2))
    return found


def _check_length(model: Decoder, num_tokens: int) -> None:
    limit = model.config.max_position_embeddings
    if num_tokens > limit:
        raise RequestError(f"a text has {num_tokens} tokens, the model's context is {limit}", hint="give shorter pieces")


def _hidden(model: Decoder, texts: Sequence[Sequence[int]]) -> Tensor:
    ends = list(accumulate(map(len, texts), initial=0))
    positions_T, lengths_T = packed_positions(ends)
    ids_T = torch.tensor([index for ids in texts for index in ids], dtype=torch.int64)
    return model.hidden(ids_T, positions_T, PackedCausal(ends), lengths_T)


def _passes(sequences: Sequence[Sequenced]) -> Iterator[list[Sequenced]]:
    """Runs of sequences of at most PASS_TOKENS tokens; a longer one goes alone."""
    some: list[Sequenced] = []
    size = 0
    for sequence in sequences:
        if some and size + len(sequence[0]) > PASS_TOKENS:
            yield some
            some, size = [], 0
        some.append(sequence)
        size += len(sequence[0])
    if some:
        yield some


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread and no gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
