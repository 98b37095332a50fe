"""The engine: requests in, events out, one step at a time.

`step` asks the scheduler for a plan, lets the runner compute it, chooses tokens, and turns them into text, stop decisions
and events. It is synchronous and belongs to one thread; `background.BackgroundEngine` gives it a thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from lianlu.client.base import TokenLogprob
from lianlu.core.errors import EngineError, LianluError, RequestError
from lianlu.engine.adapters import Adapters
from lianlu.engine.admission import Admission
from lianlu.engine.blocks import BlockPool
from lianlu.engine.choose import Choice, choose
from lianlu.engine.config import EngineConfig
from lianlu.engine.draft import new_drafter
from lianlu.engine.grammar import Grammars
from lianlu.engine.limits import blocks_held, check_ids, check_request, longest_sequence
from lianlu.engine.output import Live, Luck, Output, TokenTexts
from lianlu.engine.rules import rules_for
from lianlu.engine.runner import Runner
from lianlu.engine.scheduler import Chunk, Scheduler
from lianlu.engine.scoring import Target, score_tokens
from lianlu.engine.sequence import Event, FinishReason, Request, Sequence, State, Timings
from lianlu.engine.sessions import open_sessions
from lianlu.engine.sleep import Source, check_awake, fall_asleep, wake_up
from lianlu.engine.speculate import propose
from lianlu.engine.timing import Phase, Timeline
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
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Engine:
    """Continuous batching of one model over paged keys and values."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, config: EngineConfig | None = None, draft: Decoder | None = None
    ) -> None:
        """Takes memory for `config.max_tokens` keys and values; `draft` proposes tokens if `config.speculation` says so.

        Raises: ConfigError if there is no memory for a single block, or if `draft` has another vocabulary.
        """
        self.config = config or EngineConfig()
        self.tokenizer = tokenizer
        size = self.config.block_size
        longest = longest_sequence(model.config, self.config)
        num_blocks = blocks_held(model, self.config, draft)
        self.pool = BlockPool(num_blocks, size)
        self.max_batch_tokens = max(self.config.max_batch_tokens, self.config.max_running)
        self.adapters = Adapters(model, lambda: (live.sequence.request.adapter for live in self._live.values()))
        self.settle(model, draft)
        self.max_len = min(longest, num_blocks * size)
        self._eos_ids = frozenset(tokenizer.eos_ids) | frozenset(model.config.eos_token_ids)
        self.grammars = Grammars(tokenizer, model.config.vocab_size, self._eos_ids)
        self.source: Source | None = None
        self.asleep = False
        self.sessions = open_sessions(self.config, self.runner)
        self.admission = Admission(self.max_batch_tokens)
        self._live: dict[int, Live] = {}
        self._news: list[Event] = []
        self._next_id = 0
        self._texts = TokenTexts(tokenizer)
        self._num_steps = self._num_finished = self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0
        self._drafted_tokens = self._accepted_tokens = 0

    def settle(self, model: Decoder, draft: Decoder | None) -> None:
        """Take these weights, and room for their keys and values in blocks that hold nothing yet; no request is live."""
        self.model = model.eval()
        self.pool = BlockPool(self.pool.num_blocks, self.pool.block_size)
        self.scheduler = self._new_scheduler()
        self.runner = Runner(
            model, self.pool.num_blocks, self.pool.block_size, self.max_batch_tokens, self.adapters, self.config.kv
        )
        self.drafter = new_drafter(self.config, self.runner, draft)

    def _new_scheduler(self) -> Scheduler:
        config = self.config
        return Scheduler(
            self.pool,
            max_batch_tokens=self.max_batch_tokens,
            max_running=config.max_running,
            prefix_cache=config.prefix_cache,
        )

    def check(self, request: Request) -> None:
        """Say whether a request can be served at all; legal from any thread. Raises: RequestError (400, 404, 503)."""
        check_awake(self)
        check_request(request, self.model.config.vocab_size, self.max_len, self.pool.num_blocks * self.pool.block_size)
        if request.adapter:
            self.adapters.check(request.adapter)
        if request.session:
            self._check_session(request.session)
        if request.sampling.constraint is not None:
            self.grammars.check(request.sampling.constraint)

    def admit(self, request: Request, posted_tokens: int = 0) -> None:
        """Refuse a request whose first token would come too late; touches no state, legal from any thread.

        `posted_tokens` are prompt tokens of requests that are on their way to the engine. Raises: RequestError (429).
        """
        deadline_s = self.config.max_first_token_s if request.deadline_s is None else request.deadline_s
        if deadline_s is not None:
            known = self.pool.num_known(request.prompt, self._root(request)) if self.config.prefix_cache else 0
            self.admission.check(len(request.prompt) - known, posted_tokens, deadline_s)

    def submit(self, request: Request) -> int:
        """Queue a request; its id. Raises: RequestError (400: not possible, 429: too many are waiting)."""
        self.check(request)
        if len(self._live) >= self.config.max_running + self.config.max_queued:
            raise self.admission.full(len(self._live))
        number, wanted = self._next_id, request.sampling
        self._next_id += 1
        self._prompt_tokens += len(request.prompt)
        if wanted.max_tokens == 0:
            self._news.append(Event(number, finish_reason="length", prompt_tokens=len(request.prompt)))
            return number
        live = self._new_live(number, request)
        if request.session and self.sessions is not None:
            self.sessions.restore(live.sequence, self.pool, self.runner)
        self._live[number] = live
        self.scheduler.add(live.sequence)
        return number

    def _new_live(self, number: int, request: Request) -> Live:
        wanted = request.sampling
        max_len = min(len(request.prompt) + wanted.max_tokens, self.max_len)
        return Live(
            Sequence(number, request, max_len, self._root(request)),
            Output(self.tokenizer.stream(), wanted.stop),
            secrets.randbits(63) if wanted.seed is None else wanted.seed,
            rules_for(request, self.grammars),
            Timeline(monotonic()),
            Luck(0 if self.drafter is None else self.drafter.num_tokens),
        )

    def _check_session(self, name: str) -> None:
        """Raises: RequestError (400) if sessions are not kept here, or not under such a name."""
        if self.sessions is None:
            hint = "start it with a folder for them: --sessions FOLDER"
            raise RequestError("this engine keeps no sessions", hint=hint)
        self.sessions.check(name)

    def _root(self, request: Request) -> bytes:
        """What the numbers of a sequence depend on besides its tokens, and who may share them.

        With dynamic NTK, what a long prompt's tokens compute to depends on its length; such prompts share nothing.
        """
        config = self.model.config
        is_long = isinstance(config.rope_scaling, DynamicScaling) and len(request.prompt) > config.max_position_embeddings
        parts = (
            self.config.kv.encode(),
            self.adapters.digest(request.adapter) if request.adapter else b"",
            request.salt.encode(),
            str(len(request.prompt)).encode() if is_long else b"",
        )
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    def cancel(self, request_id: int) -> Event | None:
        """End a request wherever it is and give its blocks back; None when it is not alive (no error)."""
        live = self._live.get(request_id)
        if live is None:
            return None
        self._keep_session(live.sequence)
        self._leave(live)
        self.scheduler.end(live.sequence, State.CANCELLED)
        timings = live.timeline.timings(monotonic(), live.sequence.num_preempted)
        return _event(live.sequence, finish_reason="cancelled", timings=timings)

    def step(self) -> list[Event]:
        """Compute one batch. A request that cannot go on fails alone, in its event. Any exception makes `reset` due."""
        news, self._news = self._news, []
        begin_s = monotonic()
        propose(self.drafter, self.scheduler, self._live)
        chunks = self.scheduler.plan()
        if not chunks:
            return news
        self._num_steps += 1
        self._note_phases(chunks, begin_s)
        logits_NV = self.runner.step(chunks)
        if self.drafter is not None:
            self.drafter.follow(chunks)
        sampling = [chunk for chunk in chunks if chunk.num_samples]
        for chunk in chunks:
            if not chunk.num_samples:
                self.scheduler.advance(chunk)
        choices = choose(logits_NV, [self._live[chunk.sequence.id] for chunk in sampling], self._texts) if sampling else []
        self._note_step(chunks, monotonic() - begin_s)
        news += [self._go_on(chunk, choice) for chunk, choice in zip(sampling, choices, strict=True)]
        self.admission.note(self.scheduler)
        return news

    def _note_phases(self, chunks: ReadSequence[Chunk], now_s: float) -> None:
        """Tell the clocks who was preempted and who computes."""
        for sequence in self.scheduler.gave_way:
            self._live[sequence.id].timeline.enter("preempted", now_s)
        for chunk in chunks:
            phase: Phase = "decode" if chunk.sequence.num_generated else "prefill"
            self._live[chunk.sequence.id].timeline.enter(phase, now_s)

    def _note_step(self, chunks: ReadSequence[Chunk], seconds: float) -> None:
        """Share the time of a step out among those that were in it."""
        num_rows = sum(chunk.end - chunk.start for chunk in chunks)
        for chunk in chunks:
            self._live[chunk.sequence.id].timeline.stepped(seconds, (chunk.end - chunk.start) / num_rows)
        keys = sum((chunk.end - chunk.start) * (chunk.end + chunk.start) / 2 for chunk in chunks)
        self.admission.cost.learn(num_rows, keys, seconds)

    def _go_on(self, chunk: Chunk, choice: Choice) -> Event:
        """Take in the tokens chosen for a sequence: text, and whether one of them is the last."""
        live, sequence = choice.live, choice.live.sequence
        if choice.error is not None:
            return self._give_up(live, choice.error)
        num_proposed, num_accepted = len(sequence.drafts), len(choice.tokens) - 1
        if num_proposed:
            live.luck.note(num_proposed, num_accepted)
            live.timeline.num_drafted += num_proposed
            live.timeline.num_accepted += num_accepted
            self._drafted_tokens += num_proposed
            self._accepted_tokens += num_accepted
        live.timeline.enter("decode", monotonic())
        text, taken, reason = self._take(live, choice.tokens)
        self.scheduler.advance(chunk)
        timings = None if reason is None else self._finish(live)
        return _event(
            sequence,
            text=text,
            token_ids=choice.tokens[:taken],
            logprobs=choice.logprobs[:taken],
            finish_reason=reason,
            timings=timings,
        )

    def _take(self, live: Live, tokens: ReadSequence[int]) -> tuple[str, int, FinishReason | None]:
        """Append tokens up to the one that ends the reply: their text, how many, and why it ends if it does."""
        sequence, text = live.sequence, ""
        for taken, token in enumerate(tokens, start=1):
            sequence.tokens.append(token)
            self._generated_tokens += 1
            if token in self._eos_ids and not sequence.request.ignore_eos:
                return text + live.output.flush(), taken, "stop"
            text += live.output.push(token)
            if live.output.stopped:
                return text, taken, "stop"
            if live.rules is not None:
                live.rules.accept(token)
            if live.rules is not None and live.rules.finished:
                return text + live.output.flush(), taken, "stop"
            if len(sequence.tokens) >= sequence.max_len:
                text += live.output.flush()
                return text, taken, "stop" if live.output.stopped else "length"
        return text, len(tokens), None

    def _finish(self, live: Live) -> Timings:
        self._keep_session(live.sequence)
        self._leave(live)
        self.scheduler.end(live.sequence, State.FINISHED)
        self._num_finished += 1
        self._cached_tokens += live.sequence.num_cached
        self.admission.cost.finished(live.sequence.num_generated)
        return live.timeline.timings(monotonic(), live.sequence.num_preempted)

    def _keep_session(self, sequence: Sequence) -> None:
        """What is computed of a conversation stays, whether its reply was finished or stopped half way."""
        if sequence.request.session and sequence.blocks and self.sessions is not None:
            self.sessions.keep(sequence, self.runner)

    def _leave(self, live: Live) -> None:
        """Forget a request that ends, for whatever reason."""
        del self._live[live.sequence.id]
        if self.drafter is not None:
            self.drafter.forget(live)

    def _give_up(self, live: Live, error: LianluError) -> Event:
        """Fail one request; nothing that was computed for it is left."""
        self._leave(live)
        self.runner.wipe(self.scheduler.expel(live.sequence))
        timings = live.timeline.timings(monotonic(), live.sequence.num_preempted)
        return _event(live.sequence, finish_reason="error", error=error, timings=timings)

    def reset(self, error: Exception) -> list[Event]:
        """Fail every live request with `error` and begin anew with empty blocks; the events that say so."""
        hint = getattr(error, "hint", "") or "the engine goes on with new requests"
        failure = EngineError(f"the engine failed in a step: {type(error).__name__}: {error}", hint=hint)
        failure.__cause__ = error
        news, self._news = self._news, []
        for live in self._live.values():
            live.sequence.state = State.FAILED
            timings = live.timeline.timings(monotonic(), live.sequence.num_preempted)
            news.append(_event(live.sequence, finish_reason="error", error=failure, timings=timings))
        self._live.clear()
        if self.drafter is not None:
            self.drafter.clear()
        self.pool = BlockPool(self.pool.num_blocks, self.pool.block_size)
        self.scheduler = self._new_scheduler()
        self.runner.clear()
        return news

    def prompt_logprobs(self, ids: ReadSequence[int], num_top: int = 0, adapter: str = "") -> list[TokenLogprob | None]:
        """Log-probabilities of a text's own tokens, None for the first. Raises: RequestError if it is too long."""
        check_awake(self)
        if len(ids) > self.max_len:
            hint = "shorten the text"
            raise RequestError(f"the text has {len(ids)} tokens, the model's context is {self.max_len} tokens", hint=hint)
        if len(ids) < 2:
            return [None] * len(ids)
        check_ids(ids, self.model.config.vocab_size)
        with self.adapters.everywhere(adapter):
            (scores,) = score_tokens(self.model, [Target(tuple(ids), 1)], num_top, self.runner.codec)
        found = zip(ids[1:], scores.logprobs, scores.alternatives, strict=True)
        return [None, *(self._texts.logprob(*item) for item in found)]

    def sleep(self) -> None:
        """Give the memory of the weights back too, until `wake`. Raises: RequestError (409: requests run), ConfigError."""
        fall_asleep(self)

    def wake(self) -> None:
        """Read the weights again. Raises: DataError if their files are gone or changed; the engine sleeps on then."""
        wake_up(self)

    def close(self) -> None:
        """Give the memory for keys and values back; the engine is of no use after that."""
        self._live.clear()
        self.runner.clear(for_good=True)
        if self.drafter is not None:
            self.drafter.clear(for_good=True)
        if self.sessions is not None:
            self.sessions.close()

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
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
        )


def _event(sequence: Sequence, **news: Any) -> Event:
    """News of a sequence, with its counts as they are now."""
    return Event(
        sequence.id,
        prompt_tokens=sequence.num_prompt,
        completion_tokens=sequence.num_generated,
        cached_tokens=sequence.num_cached,
        **news,
    )
