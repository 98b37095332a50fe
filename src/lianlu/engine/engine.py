"""The engine: requests in, events out, one step at a time.

`step` asks the scheduler for a plan, lets the runner compute it, chooses tokens, and turns them into text, stop decisions
and events. It is synchronous and belongs to one thread; `background.BackgroundEngine` gives it a thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lianlu.client.base import TokenLogprob
from lianlu.core.errors import ConfigError, EngineError, RequestError
from lianlu.engine.blocks import BlockPool
from lianlu.engine.config import EngineConfig
from lianlu.engine.limits import check_ids, check_request, longest_sequence, pool_tokens
from lianlu.engine.output import Live, Output, TokenTexts
from lianlu.engine.runner import Runner
from lianlu.engine.scheduler import Chunk, Scheduler
from lianlu.engine.scoring import Target, score_tokens
from lianlu.engine.sequence import Event, FinishReason, Request, Sequence, State
from lianlu.kernels import sampling
from lianlu.model.config import DynamicScaling
from lianlu.model.decoder import Decoder
from lianlu.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Stats:
    """Counters since the start, and how things stand now."""

    num_running: int = 0
    num_queued: int = 0
    num_steps: int = 0
    num_finished: int = 0
    num_preempted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    total_blocks: int = 0
    used_blocks: int = 0
    cached_blocks: int = 0


class Engine:
    """Continuous batching of one model over paged keys and values."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, config: EngineConfig | None = None) -> None:
        """Takes memory for `config.max_tokens` keys and values. Raises: ConfigError if there is none for a single block."""
        self.config = config or EngineConfig()
        self.model = model.eval()
        self.tokenizer = tokenizer
        size = self.config.block_size
        num_blocks = pool_tokens(model, self.config.max_tokens) // size
        if num_blocks < 1:
            raise ConfigError(f"there is no room for a block of {size} tokens", hint="raise max_tokens or free some memory")
        self.pool = BlockPool(num_blocks, size)
        self.runner = Runner(model, num_blocks, size, max(self.config.max_batch_tokens, self.config.max_running))
        self.scheduler = self._new_scheduler()
        self.max_len = min(longest_sequence(model.config), num_blocks * size)
        self._eos_ids = frozenset(tokenizer.eos_ids) | frozenset(model.config.eos_token_ids)
        self._live: dict[int, Live] = {}
        self._news: list[Event] = []
        self._next_id = 0
        self._texts = TokenTexts(tokenizer)
        self._num_steps = self._num_finished = self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0

    def _new_scheduler(self) -> Scheduler:
        config = self.config
        return Scheduler(
            self.pool,
            max_batch_tokens=max(config.max_batch_tokens, config.max_running),
            max_running=config.max_running,
            prefix_cache=config.prefix_cache,
        )

    def check(self, request: Request) -> None:
        """Say whether a request can be served at all; touches no state, legal from any thread. Raises: RequestError (400)."""
        check_request(request, self.model.config.vocab_size, self.max_len, self.pool.num_blocks * self.pool.block_size)

    def submit(self, request: Request) -> int:
        """Queue a request; its id. Raises: RequestError (400: not possible, 429: too many are waiting)."""
        self.check(request)
        if len(self._live) >= self.config.max_running + self.config.max_queued:
            raise RequestError(f"{len(self._live)} requests are running or waiting", hint="try again later", status=429)
        number, wanted = self._next_id, request.sampling
        self._next_id += 1
        self._prompt_tokens += len(request.prompt)
        if wanted.max_tokens == 0:
            self._news.append(Event(number, finish_reason="length", prompt_tokens=len(request.prompt)))
            return number
        sequence = Sequence(number, request, min(len(request.prompt) + wanted.max_tokens, self.max_len), self._root(request))
        output = Output(self.tokenizer.stream(), wanted.stop)
        self._live[number] = Live(sequence, output, secrets.randbits(63) if wanted.seed is None else wanted.seed)
        self.scheduler.add(sequence)
        return number

    def _root(self, request: Request) -> bytes:
        """With dynamic NTK, what a long prompt's tokens compute to depends on its length; such prompts share nothing."""
        config = self.model.config
        is_long = isinstance(config.rope_scaling, DynamicScaling) and len(request.prompt) > config.max_position_embeddings
        return len(request.prompt).to_bytes(8, "little") if is_long else b""

    def cancel(self, request_id: int) -> Event | None:
        """End a request wherever it is and give its blocks back; None when it is not alive (no error)."""
        live = self._live.pop(request_id, None)
        if live is None:
            return None
        self.scheduler.end(live.sequence, State.CANCELLED)
        return _event(live.sequence, finish_reason="cancelled")

    def step(self) -> list[Event]:
        """Compute one batch. A request that cannot go on fails alone, in its event. Any exception makes `reset` due."""
        news, self._news = self._news, []
        chunks = self.scheduler.plan()
        if not chunks:
            return news
        self._num_steps += 1
        logits_NV = self.runner.step(chunks)
        for chunk in chunks:
            self.scheduler.advance(chunk)
        sampled = [chunk for chunk in chunks if chunk.num_samples]
        return news + (self._choose(logits_NV, sampled) if sampled else [])

    @torch.inference_mode()
    def _choose(self, logits_NV: Tensor, chunks: ReadSequence[Chunk]) -> list[Event]:
        """One token for each chunk, and what follows from it."""
        lives = [self._live[chunk.sequence.id] for chunk in chunks]
        ids_N, sound_N = sampling.greedy(logits_NV)
        drawn = [row for row, live in enumerate(lives) if live.sequence.request.sampling.temperature > 0]
        if drawn:
            ids_N[drawn] = sampling.sample(logits_NV[drawn], [lives[row].draw() for row in drawn])
        logprobs = self._logprobs(logits_NV, ids_N, lives)
        return [
            self._go_on(live, token, logprobs.get(row, ())) if sound else self._give_up(live)
            for row, (live, token, sound) in enumerate(zip(lives, ids_N.tolist(), sound_N.tolist(), strict=True))
        ]

    def _logprobs(self, logits_NV: Tensor, ids_N: Tensor, lives: ReadSequence[Live]) -> dict[int, tuple[TokenLogprob, ...]]:
        """By row, for the rows that want them."""
        wanted = {row: count for row, live in enumerate(lives) if (count := live.sequence.request.sampling.logprobs) is not None}
        if not wanted:
            return {}
        rows, count = list(wanted), max(wanted.values())
        own_N, _ = sampling.logprobs(logits_NV[rows], ids_N[rows])
        ids_NA, values_NA = sampling.alternatives(logits_NV[rows], count)
        found = zip(rows, ids_N[rows].tolist(), own_N.tolist(), ids_NA.tolist(), values_NA.tolist(), strict=True)
        return {
            row: (self._texts.logprob(token, own, list(zip(ids, values, strict=True))[: wanted[row]]),)
            for row, token, own, ids, values in found
        }

    def _go_on(self, live: Live, token: int, logprobs: tuple[TokenLogprob, ...]) -> Event:
        """Take in a chosen token: text, and whether it is the last."""
        sequence = live.sequence
        sequence.tokens.append(token)
        self._generated_tokens += 1
        reason: FinishReason | None = None
        if token in self._eos_ids and not sequence.request.ignore_eos:
            text, reason = "", "stop"
        else:
            text = live.output.push(token)
            if live.output.stopped:
                reason = "stop"
            elif len(sequence.tokens) >= sequence.max_len:
                reason = "length"
        if reason is not None:
            text += live.output.flush()
            reason = "stop" if live.output.stopped else reason
            self._finish(live)
        return _event(sequence, text, (token,), logprobs, reason)

    def _finish(self, live: Live) -> None:
        del self._live[live.sequence.id]
        self.scheduler.end(live.sequence, State.FINISHED)
        self._num_finished += 1
        self._cached_tokens += live.sequence.num_cached

    def _give_up(self, live: Live) -> Event:
        """Fail one request; nothing that was computed for it is left."""
        del self._live[live.sequence.id]
        self.runner.wipe(self.scheduler.expel(live.sequence))
        error = EngineError(
            "the model computed no usable numbers for this request",
            hint="if it happens with every request, the weights are damaged or overflow in this precision: try float32",
        )
        return _event(live.sequence, finish_reason="error", error=error)

    def reset(self, error: Exception) -> list[Event]:
        """Fail every live request with `error` and begin anew with empty blocks; the events that say so."""
        hint = getattr(error, "hint", "") or "the engine goes on with new requests"
        failure = EngineError(f"the engine failed in a step: {type(error).__name__}: {error}", hint=hint)
        failure.__cause__ = error
        news, self._news = self._news, []
        for live in self._live.values():
            live.sequence.state = State.FAILED
            news.append(_event(live.sequence, finish_reason="error", error=failure))
        self._live.clear()
        self.pool = BlockPool(self.pool.num_blocks, self.pool.block_size)
        self.scheduler = self._new_scheduler()
        self.runner.clear()
        return news

    def prompt_logprobs(self, ids: ReadSequence[int], num_top: int = 0) -> list[TokenLogprob | None]:
        """Log-probabilities of a text's own tokens, None for the first. Raises: RequestError if it is too long."""
        if len(ids) > self.max_len:
            hint = "shorten the text"
            raise RequestError(f"the text has {len(ids)} tokens, the model's context is {self.max_len} tokens", hint=hint)
        if len(ids) < 2:
            return [None] * len(ids)
        check_ids(ids, self.model.config.vocab_size)
        (scores,) = score_tokens(self.model, [Target(tuple(ids), 1)], num_top)
        found = zip(ids[1:], scores.logprobs, scores.alternatives, strict=True)
        return [None, *(self._texts.logprob(*item) for item in found)]

    def close(self) -> None:
        """Give the memory for keys and values back; the engine is of no use after that."""
        self._live.clear()
        self.runner.clear(for_good=True)

    @property
    def idle(self) -> bool:
        """Whether no request is queued or running, and no event is left to tell."""
        return not self._live and not self._news

    def stats(self) -> Stats:
        """Counters, cheap; legal from any thread."""
        return Stats(
            num_running=len(self.scheduler.running),
            num_queued=len(self.scheduler.waiting),
            num_steps=self._num_steps,
            num_finished=self._num_finished,
            num_preempted=self.scheduler.num_preempted,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            total_blocks=self.pool.num_blocks,
            used_blocks=self.pool.num_used,
            cached_blocks=self.pool.num_cached,
        )


def _event(
    sequence: Sequence,
    text: str = "",
    token_ids: tuple[int, ...] = (),
    logprobs: tuple[TokenLogprob, ...] = (),
    finish_reason: FinishReason | None = None,
    error: EngineError | None = None,
) -> Event:
    return Event(
        sequence.id,
        text,
        token_ids,
        logprobs,
        finish_reason,
        prompt_tokens=sequence.num_prompt,
        completion_tokens=sequence.num_generated,
        cached_tokens=sequence.num_cached,
        error=error,
    )
