"""From the logits of a step to the tokens of its sequences.

Every sampling row of a chunk stands after the known tokens and some of the proposed ones. A token is chosen for each, as if
the proposals before it were right; then a sequence keeps the tokens of its rows up to the first that differs from what was
proposed there. As the choice at a place depends on the numbers of that place and on a draw that belongs to it, the reply is the
same with proposals and without, for greedy decoding and for sampling.

Shapes: N rows, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lianlu.client.base import TokenLogprob
from lianlu.core.errors import EngineError, LianluError
from lianlu.engine.output import Live, TokenTexts
from lianlu.kernels import sampling
from lianlu.kernels.sampling import Draw

BAD_NUMBERS = EngineError(
    "the model computed no usable numbers for this request",
    hint="if it happens with every request, the weights are damaged or overflow in this precision: try float32",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The tokens that follow the known ones of a sequence, with their log-probabilities if wanted; or why there are none."""

    live: Live
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    error: LianluError | None = None


@torch.inference_mode()
def choose(logits_NV: Tensor, lives: ReadSequence[Live], texts: TokenTexts) -> list[Choice]:
    """A choice for each of `lives`, whose rows (one, and one for each proposal) follow each other in `logits_NV`."""
    rows = [(live, ahead) for live in lives for ahead in range(1 + len(live.sequence.drafts))]
    ids, errors = _ids(logits_NV, rows)
    choices: list[Choice] = []
    kept: list[tuple[int, int]] = []
    first = 0
    for live in lives:
        count, error = _agreeing(live, ids[first:], errors[first:])
        choices.append(Choice(live, tuple(ids[first : first + count]), error=error))
        kept.append((first, count))
        first += 1 + len(live.sequence.drafts)
    return _with_logprobs(logits_NV, choices, kept, texts)


def _agreeing(live: Live, ids: list[int], errors: list[LianluError | None]) -> tuple[int, LianluError | None]:
    """How many rows give a token: those after proposals that were right; none if the first of them has no sound numbers."""
    drafts = live.sequence.drafts
    if errors[0] is not None:
        return 0, errors[0]
    count = 1
    while count <= len(drafts) and drafts[count - 1] == ids[count - 1] and errors[count] is None:
        count += 1
    return count, None


def _ids(logits_NV: Tensor, rows: list[tuple[Live, int]]) -> tuple[list[int], list[LianluError | None]]:
    """The token chosen for each row, and what is wrong with the row if it gives none."""
    ids_N, sound_N = sampling.greedy(logits_NV)
    errors: list[LianluError | None] = [None if sound else BAD_NUMBERS for sound in sound_N.tolist()]
    free = [row for row, (live, _) in enumerate(rows) if live.rules is None and live.is_drawn]
    if free:
        ids_N[free] = sampling.sample(logits_NV[free], [_draw(rows[row]) for row in free])
    ids: list[int] = ids_N.tolist()
    for row, (live, ahead) in enumerate(rows):
        if live.rules is not None and errors[row] is None:
            ids[row], errors[row] = _ruled(logits_NV[row], live, ahead)
    return ids, errors


def _ruled(logits_V: Tensor, live: Live, ahead: int) -> tuple[int, LianluError | None]:
    """The token of one row after penalties, biases and constraints."""
    assert live.rules is not None
    try:
        adjusted_1V = live.rules.adjust(logits_V, live.sequence.drafts[:ahead])[None]
    except LianluError as error:
        return 0, error
    ids_1, sound_1 = sampling.greedy(adjusted_1V)
    if not sound_1.item():
        return 0, EngineError("no token is allowed at this place", hint="loosen the constraint or the logit_bias of the request")
    if live.is_drawn:
        ids_1 = sampling.sample(adjusted_1V, [_draw((live, ahead))])
    return int(ids_1.item()), None


def _draw(row: tuple[Live, int]) -> Draw:
    live, ahead = row
    return live.draw(ahead)


def _with_logprobs(logits_NV: Tensor, choices: list[Choice], kept: list[tuple[int, int]], texts: TokenTexts) -> list[Choice]:
    """The choices with log-probabilities of the model (before any adjustment) for those that want them."""
    wanted = [index for index, choice in enumerate(choices) if choice.live.sequence.request.sampling.logprobs is not None]
    rows = [row for index in wanted for row in range(kept[index][0], sum(kept[index]))]
    if not rows:
        return choices
    ids_N = torch.tensor([token for index in wanted for token in choices[index].tokens], device=logits_NV.device)
    count = max(choices[index].live.sequence.request.sampling.logprobs or 0 for index in wanted)
    own_N, _ = sampling.logprobs(logits_NV[rows], ids_N)
    ids_NA, values_NA = sampling.alternatives(logits_NV[rows], count)
    found = iter(zip(ids_N.tolist(), own_N.tolist(), ids_NA.tolist(), values_NA.tolist(), strict=True))
    for index in wanted:
        live, size = choices[index].live, choices[index].live.sequence.request.sampling.logprobs
        logprobs = []
        for _ in choices[index].tokens:
            token, own, ids, values = next(found)
            logprobs.append(texts.logprob(token, own, list(zip(ids, values, strict=True))[:size]))
        choices[index] = Choice(live, choices[index].tokens, tuple(logprobs), choices[index].error)
    return choices
