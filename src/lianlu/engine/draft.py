"""A small model that proposes tokens, over the same blocks as the large one.

Its keys and values lie in a cache of its own under the same block numbers, and it computes the chunks of prompts that the large
model computes. So prefix hits, preemption and eviction need no book-keeping of their own: a block that is found for the
one is found for the other. Where its cache holds something old, proposals get worse and the reply stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadSequence

import torch

from lianlu.core.errors import ConfigError
from lianlu.engine.config import EngineConfig, NgramSpeculation
from lianlu.engine.output import Live
from lianlu.engine.runner import Runner
from lianlu.engine.scheduler import Chunk
from lianlu.engine.sequence import Sequence
from lianlu.engine.speculate import Drafter, NgramDrafter
from lianlu.kernels import sampling
from lianlu.model.decoder import Decoder


class DraftModel:
    """Proposes what a small model would say at each place with the draw of that place."""

    def __init__(self, runner: Runner, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self._runner = runner
        self._computed: dict[int, int] = {}
        """By sequence: how many of its tokens lie in the cache."""

    def follow(self, chunks: ReadSequence[Chunk]) -> None:
        """Compute the chunks of prompts that the large model has just computed."""
        mine = []
        for chunk in chunks:
            sequence, end = chunk.sequence, min(chunk.end, len(chunk.sequence.tokens))
            if end - chunk.start > 1 or not chunk.num_samples:
                mine.append(Chunk(sequence, chunk.start, end, 0))
                self._computed[sequence.id] = end
        if mine:
            self._runner.step(mine)

    def propose(self, lives: ReadSequence[Live], counts: ReadSequence[int]) -> None:
        """Catch up with each sequence, then say its next tokens one by one; those with too much to catch up wait."""
        budget = self._runner.max_batch_tokens
        ready: list[tuple[Live, int]] = []
        chunks: list[Chunk] = []
        for live, count in zip(lives, counts, strict=True):
            sequence = live.sequence
            start = self._begin(sequence)
            end = min(len(sequence.tokens), start + budget)
            if end > start:
                done = end == len(sequence.tokens)
                chunks.append(Chunk(sequence, start, end, int(done)))
                ready += [(live, count)] if done else []
                self._computed[sequence.id] = end
                budget -= end - start
        while chunks:
            self._say(chunks, [live for live, _ in ready])
            ready = [(live, count) for live, count in ready if len(live.sequence.drafts) < count]
            chunks = [self._next(live.sequence) for live, _ in ready]

    def _begin(self, sequence: Sequence) -> int:
        """How many known tokens are in the cache; of a sequence never seen, all that the large model has computed."""
        return min(self._computed.get(sequence.id, sequence.num_computed), len(sequence.tokens) - 1)

    def _next(self, sequence: Sequence) -> Chunk:
        """The chunk of the last proposed token."""
        end = len(sequence.tokens) + len(sequence.drafts)
        self._computed[sequence.id] = end
        return Chunk(sequence, end - 1, end, 1)

    @torch.inference_mode()
    def _say(self, chunks: ReadSequence[Chunk], lives: ReadSequence[Live]) -> None:
        """Compute the chunks and append one proposal to each of `lives`, whose chunks are those that sample."""
        logits_NV = self._runner.step(chunks)
        if not lives:
            return
        ids_N, _ = sampling.greedy(logits_NV)
        drawn = [row for row, live in enumerate(lives) if live.is_drawn]
        if drawn:
            draws = [lives[row].draw(len(lives[row].sequence.drafts)) for row in drawn]
            ids_N[drawn] = sampling.sample(logits_NV[drawn], draws)
        for live, token in zip(lives, ids_N.tolist(), strict=True):
            live.sequence.drafts.append(token)

    def forget(self, live: Live) -> None:
        """A request has ended."""
        self._computed.pop(live.sequence.id, None)

    def clear(self, for_good: bool = False) -> None:
        """Forget all keys and values."""
        self._computed.clear()
        self._runner.clear(for_good)


def new_drafter(config: EngineConfig, runner: Runner, draft: Decoder | None) -> Drafter | None:
    """What proposes tokens to the model of `runner`, if anything shall.

    Raises: ConfigError for a draft model that is missing or has another vocabulary.
    """
    speculation = config.speculation
    if speculation is None:
        return None
    if isinstance(speculation, NgramSpeculation):
        return NgramDrafter(speculation)
    vocab_size = runner.model.config.vocab_size
    if draft is None or draft.config.vocab_size != vocab_size:
        raise ConfigError(
            f"the draft model {speculation.model} has {draft.config.vocab_size if draft else 0} token ids, not {vocab_size}",
            hint="use a smaller model of the same family",
        )
    own = Runner(draft.eval(), runner.num_blocks, runner.block_size, runner.max_batch_tokens, kv=config.kv)
    return DraftModel(own, speculation.num_tokens)
