"""Vectors of texts: the model's last hidden states, after the final norm, pooled over a text's tokens.

Texts go through the model packed, in passes of up to `PASS_TOKENS` new tokens (`packing`); a longer text goes alone, chunk by
chunk, each of which looks back at the keys and values of those before it. So the caller has the engine for itself only for
the time of one pass, and can let requests go on between two. A text's vector is the same to the bit alone, in any list and in
any place of it, because its rows are, and because their sum depends on its length only.

A decoder trained to write gives passable vectors for search and clustering and better ones where it was trained for it;
`mean` suits the former, `last` is what most embedding models built on decoders were trained with.

Shapes: T rows of a pass, L keys of one text, H query heads, G key-value heads, K head_dim, D hidden_size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lianlu.core.errors import EngineError, RequestError
from lianlu.engine.limits import check_ids
from lianlu.engine.packing import Group, cuts, hidden
from lianlu.kernels.paged_attention import KEYS, ROWS, chunk_attention, round_up
from lianlu.model.decoder import Decoder

PASS_TOKENS = 512
PASS_TEXTS = 64
Pooling = Literal["mean", "last"]
Vector = NDArray[np.float32]


def fitted(ids: Sequence[int], vocab_size: int, max_len: int, truncate: int | None = None) -> Sequence[int]:
    """Token ids as they can be embedded: with `truncate` the first so many (-1: as many as the model takes).

    Raises: RequestError (400) for an empty or too long text and for ids that the model does not know.
    """
    if truncate is not None:
        ids = ids[: max_len if truncate < 0 else truncate]
    if not ids:
        raise RequestError("a text to embed is empty", hint="give at least one token")
    if len(ids) > max_len:
        hint = "shorten it, or ask for truncation (truncate_prompt_tokens)"
        raise RequestError(f"a text has {len(ids)} tokens, the model's context is {max_len} tokens", hint=hint)
    check_ids(ids, vocab_size)
    return ids


def embed(
    model: Decoder, texts: Sequence[Sequence[int]], pooling: Pooling = "mean", normalize: bool = True
) -> Iterator[list[Vector]]:
    """Vectors of texts (token ids, none empty) in fp32, in order; every `next` is one pass through the model.

    What a pass yields are the vectors it completed: several for short texts, none for a chunk of a long one.
    `normalize` scales them to length 1. Raises: EngineError if the weights give no numbers.
    """
    for part in cuts(texts, PASS_TOKENS, PASS_TEXTS):
        group = texts[part]
        if len(group[0]) <= PASS_TOKENS:
            yield [_finished(x_D, normalize) for x_D in _pooled_group(model, group, pooling)]
            continue
        pooled_D: Tensor | None = None
        for pooled_D in _pooled_chunks(model, group[0], pooling):
            if pooled_D is None:
                yield []
        assert pooled_D is not None, "the last chunk completes a text"
        yield [_finished(pooled_D, normalize)]


@torch.inference_mode()
def _pooled_group(model: Decoder, texts: Sequence[Sequence[int]], pooling: Pooling) -> list[Tensor]:
    """pooled_D of texts that go through the model together."""
    group = Group.of(model)
    for ids in texts:
        group.add(np.asarray(ids, dtype=np.int64))
    h_TD = hidden(model, group)
    if pooling == "last":
        return [h_TD[int(rows[-1])].float() for rows in group.rows_of]
    return [h_TD[torch.from_numpy(rows).to(h_TD.device)].float().sum(0) / len(rows) for rows in group.rows_of]


def _pooled_chunks(model: Decoder, ids: Sequence[int], pooling: Pooling) -> Iterator[Tensor | None]:
    """Compute one long text chunk by chunk; None for each but the last, which gives its pooled_D."""
    past = _Past(model, len(ids))
    sum_D: Tensor | None = None
    for begin in range(0, len(ids), PASS_TOKENS):
        h_TD = past.extend(ids[begin : begin + PASS_TOKENS]).float()
        part_D = h_TD[-1] if pooling == "last" else h_TD.sum(0) / len(ids)
        sum_D = part_D if sum_D is None or pooling == "last" else sum_D + part_D
        yield sum_D if begin + PASS_TOKENS >= len(ids) else None


def _finished(pooled_D: Tensor, normalize: bool) -> Vector:
    """A vector as it is handed out."""
    vector: Vector = pooled_D.cpu().numpy()
    if not np.isfinite(vector).all():
        hint = "the weights are damaged or overflow in this precision: try float32"
        raise EngineError("the model computed no usable numbers for a text", hint=hint)
    return scaled(vector) if normalize else vector


def scaled(vector: Vector) -> Vector:
    """The vector at length 1; a vector of zeros stays."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / np.float32(length)).astype(np.float32) if length else vector


class _Past:
    """Keys and values of one text, layer by layer, as far as it is computed."""

    def __init__(self, model: Decoder, num_tokens: int) -> None:
        self._model, self._num_tokens, self._num_done = model, num_tokens, 0
        self._kept: list[tuple[Tensor, Tensor]] = []

    @torch.inference_mode()
    def extend(self, ids: Sequence[int]) -> Tensor:
        """h_TD of the next tokens of the text."""
        begin, end = self._num_done, self._num_done + len(ids)
        rows = round_up(len(ids), ROWS)
        device = next(self._model.parameters()).device
        fill = [0] * (rows - len(ids))
        ids_T, positions_T = torch.tensor([[*ids, *fill], [*range(begin, end), *fill]], device=device)

        def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
            if layer == len(self._kept):
                shape = (round_up(self._num_tokens, KEYS), *k_TGK.shape[1:])
                self._kept.append((k_TGK.new_zeros(shape), v_TGK.new_zeros(shape)))
            k_LGK, v_LGK = self._kept[layer]
            k_LGK[begin:end], v_LGK[begin:end] = k_TGK[: len(ids)], v_TGK[: len(ids)]
            num_keys = round_up(end, KEYS)
            o_THK = torch.zeros_like(q_THK)
            o_THK[: len(ids)] = chunk_attention(q_THK[: len(ids)], k_LGK[:num_keys], v_LGK[:num_keys], end)
            return o_THK

        lengths_T = torch.full((rows,), self._num_tokens, device=device)
        h_TD = self._model.hidden(ids_T, positions_T, attend, lengths_T)
        self._num_done = end
        return h_TD[: len(ids)]
