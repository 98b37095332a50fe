"""Text completions: prompts as they stand, with echo and scoring.

With `echo` the reply begins with the prompt; with `logprobs` too, the prompt's own tokens are scored, and `max_tokens: 0`
asks for nothing else. The first token of a prompt has no log-probability (null), as nothing comes before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from lianlu.client.base import TokenLogprob
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.sequence import Event
from lianlu.serve import replies
from lianlu.serve.exchange import Batch, answer, read_body
from lianlu.serve.keys import Caller, caller_of
from lianlu.serve.replies import Frame, Json
from lianlu.serve.run import Run
from lianlu.serve.service import Service
from lianlu.serve.talk import asked, check, naming
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_text import CompletionBody
from lianlu.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Echo:
    """A prompt as it is given back: what each of its tokens adds to the text and, if asked for, their log-probabilities."""

    pieces: list[str]
    logprobs: list[TokenLogprob | None]


def routes(service: Service) -> list[Route]:
    """POST /v1/completions."""

    async def complete(request: HttpRequest) -> Response:
        body = parse_body(CompletionBody, await read_body(request, service.limits.max_body_bytes))
        return await answer(request, prepare_completion(service, body, caller_of(request)), bool(body.stream))

    return [Route("/v1/completions", complete, methods=["POST"])]


async def prepare_completion(service: Service, body: CompletionBody, caller: Caller) -> CompletionJob:
    """Tokenise the prompts, score them if they are echoed, and submit their choices. Raises: RequestError."""
    route = service.route(body.model, caller)
    service.check_room(route)
    prompts = await asyncio.to_thread(encode_all, route.tokenizer, body.prompts())
    rule, limit = body.rule(), body.token_limit
    requests = [
        asked(body, tuple(ids), limit, body.logprobs, choice, rule) for ids in prompts for choice in range(body.num_choices)
    ]
    with naming("prompt"):
        await asyncio.to_thread(check, route, requests[:: body.num_choices], rule)
    echoes = await echo_all(route.engine, prompts, body.logprobs, route.adapter) if body.echo else []
    head = replies.Head.completion(route.name, body.wants_usage)
    return CompletionJob(head, body, route.tokenizer, len(prompts), echoes, service.run(route, caller, head.id, requests))


def encode_all(tokenizer: Tokenizer, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    """Ids of each prompt. A text begins as the model's texts do, an empty one is what separates texts; ids stay as they are."""
    opening = [token for token in (tokenizer.bos_id, *tokenizer.eos_ids) if token is not None][:1]
    first = opening if tokenizer.adds_bos else []
    return [(first + tokenizer.encode(prompt) or opening) if isinstance(prompt, str) else prompt for prompt in prompts]


async def echo_all(
    engine: BackgroundEngine, prompts: Sequence[Sequence[int]], num_top: int | None, adapter: str = ""
) -> list[Echo]:
    """The prompts as they are given back, scored if `num_top` is a number; other requests go on between two prompts."""
    echoes = []
    for ids in prompts:
        known: list[TokenLogprob | None] = []
        if num_top is not None:
            known = await engine.acall(partial(engine.engine.prompt_logprobs, ids, num_top, adapter))
        echoes.append(Echo(_pieces(engine.engine.tokenizer, ids), known))
    return echoes


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text."""
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    pieces[-1] += stream.flush()
    return pieces


@dataclass
class CompletionJob:
    """A text completion under way."""

    head: replies.Head
    body: CompletionBody
    tokenizer: Tokenizer
    num_prompts: int
    echoes: list[Echo]
    run: Run

    async def whole(self) -> Json:
        """The completion object."""
        events = await self.run.results()
        choices = [state.feed(event) for state, event in zip(self._states(), events, strict=True)]
        return self.head.whole(choices, replies.usage(events, self.num_prompts))

    async def chunks(self) -> AsyncIterator[Batch]:
        """Pieces of text by choice, and the usage if it was asked for."""
        states, ends = self._states(), dict[int, Event]()
        async for batch in self.run.batches():
            yield [chunk for index, event in batch.items() if (chunk := states[index].chunk(event)) is not None]
            ends |= {index: event for index, event in batch.items() if event.finish_reason}
        if self.head.wants_usage:
            yield [self.head.chunk([], replies.usage([ends[index] for index in sorted(ends)], self.num_prompts))]

    def _states(self) -> list[TextState]:
        owners = [number for number in range(self.num_prompts) for _ in range(self.body.num_choices)]
        return [TextState(self, index, self.echoes[owner] if self.echoes else None) for index, owner in enumerate(owners)]


@dataclass
class TextState:
    """How far one choice has come."""

    job: CompletionJob
    index: int
    echo: Echo | None
    offsets: replies.TextLogprobs = field(default_factory=replies.TextLogprobs)

    def __post_init__(self) -> None:
        self.texts = self.job.tokenizer.stream()
        self._frame = Frame.around(lambda text: self.job.head.chunk([replies.text_choice(self.index, text, None, None)]))

    def chunk(self, event: Event) -> Json | bytes | None:
        """The chunk that an event brings, if it brings anything."""
        if event.finish_reason is None and self.echo is None and self.job.body.logprobs is None:
            return self._frame.filled(event.text) if event.text else None
        return self.job.head.chunk([self.feed(event)])

    def feed(self, event: Event) -> Json:
        """The piece of the choice that an event brings; the first one is led in by the echoed prompt."""
        echo, self.echo = self.echo, None
        text = "".join(echo.pieces if echo else ()) + event.text
        shape = None if self.job.body.logprobs is None else self._shape(event, echo)
        return replies.text_choice(self.index, text, event.finish_reason, shape)

    def _shape(self, event: Event, echo: Echo | None) -> Json:
        """The log-probabilities of the echoed prompt and of the new tokens."""
        pieces = [self.texts.push(token) for token in event.token_ids]
        if event.finish_reason and pieces:
            pieces[-1] += self.texts.flush()
        if echo is None:
            return self.offsets.shape(event.logprobs, pieces)
        return self.offsets.shape([*echo.logprobs, *event.logprobs], [*echo.pieces, *pieces])
