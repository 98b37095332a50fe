"""From a checked body to a reply: prompts become token ids, sequences run, their events become choices or chunks.

`prepare_chat` does what may be refused (before a status line is sent) and hands back a job, whose `whole` or `chunks` is
then awaited; `complete` does the same for plain texts. Templates and tokenising run in threads; the engine's thread only steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from lianlu.client.base import Sampling, TokenLogprob
from lianlu.engine.sequence import Event, Request
from lianlu.formats.messages import Message, ToolSpec
from lianlu.serve import replies
from lianlu.serve.exchange import answer, read_body
from lianlu.serve.keys import Caller, caller_of
from lianlu.serve.replies import Json
from lianlu.serve.run import Run
from lianlu.serve.service import Service
from lianlu.serve.wire import Body, parse_body
from lianlu.serve.wire_chat import ChatBody
from lianlu.tokenizer.tokenizer import Tokenizer


def routes(service: Service) -> list[Route]:
    """POST /v1/chat/completions."""

    async def chat(request: HttpRequest) -> Response:
        body = parse_body(ChatBody, await read_body(request, service.limits.max_body_bytes))
        return await answer(request, prepare_chat(service, body, caller_of(request)), bool(body.stream))

    return [Route("/v1/chat/completions", chat, methods=["POST"])]


def sampling(body: Body, max_tokens: int, logprobs: int | None, choice: int) -> Sampling:
    """How one choice is sampled. OpenAI's defaults hold (temperature 1); the choices of a seeded request take seeds in a row."""
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        seed=None if body.seed is None else body.seed + choice,
        stop=body.stops,
        logprobs=logprobs,
    )


async def prepare_chat(service: Service, body: ChatBody, caller: Caller) -> ChatJob:
    """Render the conversation and submit its choices. Raises: RequestError."""
    route = service.route(body.model, caller)
    tools = list(body.tool_use().tools)
    messages = body.conversation()
    rendered = await asyncio.to_thread(route.tokenizer.render, messages, tools, reply=True)
    room = max(route.engine.engine.max_len - len(rendered.ids), 1)
    limit = room if body.token_limit is None else body.token_limit
    prompt = tuple(rendered.ids)
    requests = [Request(prompt, sampling(body, limit, body.num_logprobs, choice)) for choice in range(body.num_choices)]
    head = replies.Head.chat(route.name, body.wants_usage)
    return ChatJob(head, body, route.tokenizer, tools, service.run(route, caller, head.id, requests))


@dataclass
class ChatJob:
    """A chat completion under way."""

    head: replies.Head
    body: ChatBody
    tokenizer: Tokenizer
    tools: list[ToolSpec]
    run: Run

    async def whole(self) -> Json:
        """The chat completion object."""
        events = await self.run.results()
        choices = [self._choice(index, event) for index, event in enumerate(events)]
        return self.head.whole(choices, replies.usage(events, 1))

    def _choice(self, index: int, event: Event) -> Json:
        message = self.message(event.text)
        return replies.chat_choice(index, message, finish_of(event, message), self.logprobs(event))

    def message(self, text: str) -> Message:
        """A whole reply's text as a message, tool calls taken out of it where tools were offered."""
        if not self.tools:
            return Message(role="assistant", content=text)
        message = self.tokenizer.parse(text, self.tools)
        if self.body.parallel_tool_calls is False:
            return message.model_copy(update={"tool_calls": message.tool_calls[:1]})
        return message

    def visible(self, text: str) -> str:
        """The part of an unfinished reply that is surely text and no tool call."""
        return self.tokenizer.visible(text, self.tools) if self.tools else text

    def logprobs(self, event: Event) -> tuple[TokenLogprob, ...] | None:
        """The log-probabilities to show; None when they were not asked for."""
        return event.logprobs if self.body.logprobs else None

    async def chunks(self) -> AsyncIterator[list[Json]]:
        """Role, pieces of text, tool calls, the finish of each choice, and the usage if it was asked for."""
        states = [ChatState(self, index) for index in range(len(self.run.handles))]
        opening = {"role": "assistant", "content": "", "refusal": None}
        yield [self.head.chunk([replies.chat_delta(state.index, opening)]) for state in states]
        ends: dict[int, Event] = {}
        async for batch in self.run.batches():
            yield [self.head.chunk([delta]) for index, event in batch.items() for delta in states[index].feed(event)]
            ends |= {index: event for index, event in batch.items() if event.finish_reason}
        if self.head.wants_usage:
            yield [self.head.chunk([], replies.usage([ends[index] for index in sorted(ends)], 1))]


@dataclass
class ChatState:
    """How far the stream of one choice has come: what the model wrote, and what of it the client has seen."""

    job: ChatJob
    index: int
    text: str = ""
    sent: str = ""

    def feed(self, event: Event) -> Iterator[Json]:
        """The deltas that an event brings."""
        self.text += event.text
        if event.finish_reason is None:
            yield from self._say(self.job.visible(self.text), self.job.logprobs(event))
            return
        message = self.job.message(self.text)
        yield from self._say(message.content, self.job.logprobs(event))
        for number, call in enumerate(message.tool_calls):
            yield replies.chat_delta(self.index, {"tool_calls": [{"index": number} | replies.tool_call(call)]})
        yield replies.chat_delta(self.index, {}, finish_of(event, message))

    def _say(self, shown: str, logprobs: tuple[TokenLogprob, ...] | None) -> Iterator[Json]:
        """The text up to `shown`; what was sent cannot be taken back, so trimmed ends stay."""
        new = shown[len(self.sent) :] if shown.startswith(self.sent) else ""
        self.sent += new
        if new or logprobs:
            yield replies.chat_delta(self.index, {"content": new}, logprobs=logprobs)


def finish_of(event: Event, message: Message | None = None) -> str:
    """Why a choice ended, in OpenAI's words."""
    if message is not None and message.tool_calls:
        return "tool_calls"
    return event.finish_reason or "stop"
