"""What the tokens of one reply have to keep to, beyond temperature and cuts: biases, penalties, and a grammar.

`rules_for` gives the rules of a request, or None where the logits are left as they are. The order, as in vLLM and transformers:

1. `logit_bias` is added;
2. `repetition_penalty`: the logits of tokens of prompt and reply are divided by it if positive, multiplied if negative
   (CTRL, Keskar et al. 2019, arXiv 1909.05858);
3. `frequency_penalty` times its count, and `presence_penalty` once, are subtracted for a token of the reply (OpenAI);
4. tokens that the constraint refuses get -inf.

Temperature, top-k, top-p and min-p follow in `kernels.sampling`. Log-probabilities that are reported are those of the model,
before all of this. A row depends on the request and its own tokens alone.

Shapes: V vocab_size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as ReadSequence

import torch
from torch import Tensor

from lianlu.client.base import Sampling
from lianlu.engine.grammar import Course, Grammars
from lianlu.engine.sequence import Request


def rules_for(request: Request, grammars: Grammars) -> Rules | None:
    """The rules of a request, None if it has none. Raises: RequestError (400) for a constraint that cannot be used."""
    wanted = request.sampling
    course = None if wanted.constraint is None else grammars.start(wanted.constraint, request.ignore_eos)
    weights = Weights(wanted, request.prompt) if _has_weights(wanted) else None
    return Rules(weights, course) if weights or course else None


def _has_weights(wanted: Sampling) -> bool:
    penalties = wanted.presence_penalty or wanted.frequency_penalty or wanted.repetition_penalty != 1.0
    return bool(penalties or wanted.logit_bias)


class Rules:
    """The rules of one reply and where it stands in them."""

    def __init__(self, weights: Weights | None, course: Course | None) -> None:
        self._weights = weights
        self._course = course

    @property
    def finished(self) -> bool:
        """Whether the constraint allows nothing more; the reply is complete then."""
        return self._course is not None and self._course.finished

    @torch.inference_mode()
    def adjust(self, logits_V: Tensor, ahead: ReadSequence[int] = ()) -> Tensor:
        """A new fp32 row for the token that follows the accepted ones and `ahead`, which are not accepted by that.

        Raises: RequestError (422) when the reply cannot go on within its constraint.
        """
        row_V = logits_V.to(torch.float32, copy=True)
        if self._weights is not None:
            self._weights.apply(row_V, ahead)
        if self._course is not None:
            refused_V = torch.from_numpy(self._course.refused(ahead))
            row_V.masked_fill_(refused_V.to(row_V.device), -torch.inf)
        return row_V

    @torch.inference_mode()
    def accept(self, token: int) -> None:
        """Take note of a token that was chosen for good."""
        if self._weights is not None:
            self._weights.note(token, 1)
        if self._course is not None:
            self._course.accept(token)

    def num_valid(self, drafts: ReadSequence[int]) -> int:
        """How many of the proposed tokens the constraint allows, one after the other."""
        return len(drafts) if self._course is None else self._course.num_valid(drafts)

    def forced(self) -> list[int]:
        """Tokens of which the constraint leaves no choice, good proposals; often empty."""
        return [] if self._course is None else self._course.forced()


class Weights:
    """Biases and penalties of one reply, kept as rows from token to token; made when a first row shows size and device."""

    def __init__(self, wanted: Sampling, prompt: ReadSequence[int]) -> None:
        self._wanted = wanted
        self._prompt = frozenset(prompt) if wanted.repetition_penalty != 1.0 else frozenset()
        self._counts: Counter[int] = Counter()
        self._bias_V: Tensor | None = None
        self._seen_V: Tensor | None = None
        self._off_V: Tensor | None = None

    def apply(self, row_V: Tensor, ahead: ReadSequence[int]) -> None:
        """Change a row as if `ahead` had been said."""
        if self._bias_V is None:
            self._place(row_V)
        for token in ahead:
            self.note(token, 1)
        if self._bias_V is not None:
            row_V += self._bias_V
        if self._seen_V is not None:
            penalty = self._wanted.repetition_penalty
            row_V.copy_(torch.where(self._seen_V, torch.where(row_V < 0, row_V * penalty, row_V / penalty), row_V))
        if self._off_V is not None:
            row_V -= self._off_V
        for token in ahead:
            self.note(token, -1)

    def note(self, token: int, change: int) -> None:
        """One `token` more (1) or less (-1) has been said."""
        self._counts[token] += change
        count, wanted = self._counts[token], self._wanted
        if self._off_V is not None:
            self._off_V[token] = wanted.frequency_penalty * count + wanted.presence_penalty * (count > 0)
        if self._seen_V is not None:
            self._seen_V[token] = count > 0 or token in self._prompt

    def _place(self, row_V: Tensor) -> None:
        wanted, device = self._wanted, row_V.device
        self._bias_V = torch.zeros_like(row_V)
        for token, bias in wanted.logit_bias:
            self._bias_V[token] += bias
        if wanted.repetition_penalty != 1.0:
            self._seen_V = torch.zeros_like(row_V, dtype=torch.bool)
            self._seen_V[torch.tensor(sorted(self._prompt), dtype=torch.int64, device=device)] = True
        if wanted.presence_penalty or wanted.frequency_penalty:
            self._off_V = torch.zeros_like(row_V)
        for token in list(self._counts):
            self.note(token, 0)
