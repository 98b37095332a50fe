"""A client for a model in this process: the same contract as a client for a URL, without HTTP.

Requests of any number of threads run in one batch on one engine. Scores are computed between the engine's steps, in groups
that depend on the list given and on nothing else. The tokens of a scored text follow lm-evaluation-harness: the whole is
tokenised, and cut where the tokens of the context alone would end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from lianlu.client import base
from lianlu.client.base import ChatRequest, ChatScoreRequest, CompletionRequest, Delta, Reply, Scored, ScoreRequest
from lianlu.core.errors import EngineError, RequestError
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.collect import Pieces, checked, in_flight
from lianlu.engine.engine import Engine
from lianlu.engine.limits import check_ids
from lianlu.engine.scoring import Target, TokenScores, groups, score_group
from lianlu.engine.sequence import Event, Request
from lianlu.formats.messages import Message, ToolSpec


class LocalClient:
    """Talks to an engine in this process. Use `engine.connect` to make one."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.tokenizer = engine.tokenizer
        self.engine = BackgroundEngine(engine)

    def chat(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """Replies to the conversations, in order. Raises: RequestError, EngineError for the first one that fails."""
        events = self.run(self.chat_request(request) for request in requests)
        return [self._chat_reply(event, _offered(request)) for event, request in zip(events, requests, strict=True)]

    def complete(self, requests: Sequence[CompletionRequest]) -> list[Reply]:
        """Continuations of the texts, in order. Raises: RequestError, EngineError for the first one that fails."""
        events = self.run(Request(tuple(self.prompt(request.prompt)), request.sampling) for request in requests)
        return [_reply(event, Message(role="assistant", content=event.text)) for event in events]

    def score(self, requests: Sequence[ScoreRequest | ChatScoreRequest]) -> list[Scored]:
        """Log-probabilities of the continuations, in order. A text too long for the model loses its beginning.

        Raises: RequestError for a conversation without an assistant's message at its end; EngineError for weights that give
        no numbers.
        """
        model = self.engine.engine.model
        targets = [self._fit(self._target(request)) for request in requests]
        for target in targets:
            check_ids(target.ids, model.config.vocab_size)
        found: list[TokenScores] = []
        for group in groups([target for target in targets if target.first < len(target.ids)]):
            found += self.engine.call(partial(score_group, model, group, codec=self.engine.engine.runner.codec))
        scores = iter(found)
        return [_scored(next(scores)) if target.first < len(target.ids) else Scored(0.0, 0, True) for target in targets]

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        """One reply piece by piece; the last delta carries the whole. Closing the iterator cancels the request."""
        pieces = self.pieces(self.chat_request(request), _offered(request))
        for piece in pieces:
            yield Delta(text=piece)
        yield Delta(reply=self._chat_reply(pieces.event, _offered(request)))

    def close(self) -> None:
        """Cancel what runs and give the memory back."""
        self.engine.close()

    def run(self, requests: Iterable[Request]) -> list[Event]:
        """The whole news of each request, in order. Raises: RequestError, EngineError for the first one that fails."""
        with closing(in_flight(self.engine, requests)) as handles:
            return [checked(handle.result()) for handle in handles]

    def pieces(self, request: Request, tools: Sequence[ToolSpec] = ()) -> Pieces:
        """Submit a request whose reply is read piece by piece. Raises: RequestError."""
        handle = self.engine.submit(request)
        if not tools:
            return Pieces(handle, str, str)
        return Pieces(
            handle, lambda text: self.tokenizer.visible(text, tools), lambda text: self.tokenizer.parse(text, tools).content
        )

    def chat_request(self, request: ChatRequest) -> Request:
        """A conversation as token ids; calls of its tools will be well formed, unless it has a constraint of its own.

        Raises: RequestError for one that the model's template refuses, or a choice that its tools do not allow.
        """
        rendered = self.tokenizer.render(request.messages, _offered(request), reply=True)
        sampling = request.sampling
        if sampling.constraint is None and (request.tools or request.tool_choice != "auto"):
            constraint = self.engine.engine.grammars.for_tools(request.tools, request.tool_choice)
            sampling = replace(sampling, constraint=constraint)
        return Request(tuple(rendered.ids), sampling)

    def message(self, event: Event, tools: Sequence[ToolSpec]) -> Message:
        """What a finished reply says; tool calls are read out of the text where tools were offered."""
        return self.tokenizer.parse(event.text, tools) if tools else Message(role="assistant", content=event.text)

    def _chat_reply(self, event: Event, tools: Sequence[ToolSpec]) -> Reply:
        return _reply(event, self.message(event, tools))

    def prompt(self, text: str) -> list[int]:
        """Ids of a text as the model's texts begin; an empty one begins with whatever separates texts."""
        first = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
        return first + self.tokenizer.encode(text) or [self._opening()]

    def _opening(self) -> int:
        """The token before the first one of a text. Raises: RequestError if the tokenizer has none."""
        for token in (self.tokenizer.bos_id, *self.tokenizer.eos_ids):
            if token is not None:
                return token
        raise RequestError("an empty context needs a beginning-of-text token, and this tokenizer has none", hint="add a context")

    def _target(self, request: ScoreRequest | ChatScoreRequest) -> Target:
        return self._chat_target(request) if isinstance(request, ChatScoreRequest) else self._text_target(request)

    def _text_target(self, request: ScoreRequest) -> Target:
        """Spaces at the end of a context belong to the continuation; an empty context is the token that opens a text."""
        context, continuation = request.context, request.continuation
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        if not context:
            ids = self.tokenizer.encode(continuation)
            opening = [] if ids and ids[0] == self._opening() and len(ids) > 1 else [self._opening()]
            return Target((*opening, *ids), 1)
        whole, begin = self.tokenizer.encode_batch([context + continuation, context])
        return Target(tuple(whole), min(len(begin), len(whole))) if begin else Target((self._opening(), *whole), 1)

    def _chat_target(self, request: ChatScoreRequest) -> Target:
        """The last assistant message: the last run of tokens that an assistant has to produce."""
        rendered = self.tokenizer.render(request.messages, request.tools)
        last = request.messages[-1].role if request.messages else "nobody"
        if last != "assistant" or len(request.messages) - 1 in rendered.untrained or not any(rendered.mask):
            hint = "end the conversation with the assistant's message whose likelihood is wanted"
            raise RequestError(f"the last message is from {last}, it cannot be scored", hint=hint)
        end = len(rendered.mask) - rendered.mask[::-1].index(True)
        first = next((index for index in range(end - 1, -1, -1) if not rendered.mask[index]), -1) + 1
        return Target(tuple(rendered.ids[:end]), first)

    def _fit(self, target: Target) -> Target:
        """Drop tokens from the beginning until the model can take it (as lm-evaluation-harness does)."""
        over = len(target.ids) - 1 - self.engine.engine.max_len
        return target if over <= 0 else Target(target.ids[over:], max(target.first - over, 1))


def _offered(request: ChatRequest) -> Sequence[ToolSpec]:
    """The tools that may be called."""
    return () if request.tool_choice == "none" else request.tools


def _reply(event: Event, message: Message) -> Reply:
    reason: base.FinishReason = "length" if event.finish_reason == "length" else "stop"
    if message.tool_calls:
        reason = "tool_calls"
    return Reply(message, reason, event.prompt_tokens, event.completion_tokens, event.logprobs, event.cached_tokens)


def _scored(scores: TokenScores) -> Scored:
    total = math.fsum(scores.logprobs)
    if not math.isfinite(total):
        raise EngineError(
            "the model computed no usable numbers for a text",
            hint="the weights are damaged or overflow in this precision: try float32",
        )
    return Scored(total, len(scores.logprobs), all(scores.is_greedy))
