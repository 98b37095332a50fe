"""POST /v1/chat/completions: a conversation becomes sequences, their events become choices or chunks.

`prepare_chat` does what may be refused and hands back a job, whose `whole` or `chunks` is then awaited. A chunk of plain
text costs one string: what is the same in all chunks of a choice is written once (`replies.Frame`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Event
from lianlu.serve import replies
from lianlu.serve.exchange import Batch, answer, read_body
from lianlu.serve.keys import Caller, caller_of
from lianlu.serve.reading import Piece, Reader, Said, read_whole
from lianlu.serve.replies import Frame, Json
from lianlu.serve.run import Run
from lianlu.serve.service import Service
from lianlu.serve.talk import Ask, Talk, begin
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_chat import ChatBody


def routes(service: Service) -> list[Route]:
    """POST /v1/chat/completions."""

    async def chat(request: HttpRequest) -> Response:
        body = parse_body(ChatBody, await read_body(request, service.limits.max_body_bytes))
        return await answer(request, prepare_chat(service, body, caller_of(request)), bool(body.stream))

    return [Route("/v1/chat/completions", chat, methods=["POST"])]


async def prepare_chat(service: Service, body: ChatBody, caller: Caller) -> ChatJob:
    """Render the conversation and submit its choices. Raises: RequestError."""
    ask = Ask(body, body.conversation(), body.tool_use(), body.rule(), body.token_limit, body.num_logprobs, body.num_choices)
    head = replies.Head.chat("", body.wants_usage)
    talk = await begin(service, caller, ask, head.id)
    return ChatJob(head.named(talk.route.name), talk, bool(body.logprobs))


@dataclass
class ChatJob:
    """A chat completion under way."""

    head: replies.Head
    talk: Talk
    wants_logprobs: bool

    @property
    def run(self) -> Run:
        """The sequences."""
        return self.talk.run

    async def whole(self) -> Json:
        """The chat completion object."""
        events = await self.run.results()
        choices = [self._choice(index, event) for index, event in enumerate(events)]
        return self.head.whole(choices, replies.usage(events, 1))

    def _choice(self, index: int, event: Event) -> Json:
        reader = self.talk.reader()
        message = replies.chat_message(*read_whole(reader, event.text))
        return replies.chat_choice(index, message, finish_of(event, reader), self.logprobs(event))

    def logprobs(self, event: Event) -> tuple[TokenLogprob, ...] | None:
        """The log-probabilities to show; None when they were not asked for."""
        return event.logprobs if self.wants_logprobs else None

    async def chunks(self) -> AsyncIterator[Batch]:
        """Role, pieces of text and of calls, the finish of each choice, and the usage if it was asked for."""
        states = [ChatState(self, index, self.talk.reader()) for index in range(len(self.run.handles))]
        opening = {"role": "assistant", "content": "", "refusal": None}
        yield [self.head.chunk([replies.chat_delta(state.index, opening)]) for state in states]
        ends: dict[int, Event] = {}
        async for batch in self.run.batches():
            yield [chunk for index, event in batch.items() for chunk in states[index].feed(event)]
            ends |= {index: event for index, event in batch.items() if event.finish_reason}
        if self.head.wants_usage:
            yield [self.head.chunk([], replies.usage([ends[index] for index in sorted(ends)], 1))]


@dataclass
class ChatState:
    """How far the stream of one choice has come."""

    job: ChatJob
    index: int
    reader: Reader
    _frame: Frame = field(init=False)

    def __post_init__(self) -> None:
        self._frame = Frame.around(lambda text: self._chunk({"content": text}))

    def feed(self, event: Event) -> Iterator[Json | bytes]:
        """The chunks that an event brings."""
        pieces = self.reader.feed(event.text)
        if event.finish_reason is not None:
            pieces += self.reader.end()
        logprobs = self.job.logprobs(event) or None
        if logprobs and not pieces:
            pieces.append(Said(""))
        for piece in pieces:
            yield self._piece(piece, logprobs)
            logprobs = None
        if event.finish_reason is not None:
            yield self._chunk({}, finish_of(event, self.reader))

    def _piece(self, piece: Piece, logprobs: tuple[TokenLogprob, ...] | None) -> Json | bytes:
        if isinstance(piece, Said):
            return self._frame.filled(piece.text) if logprobs is None else self._chunk({"content": piece.text}, None, logprobs)
        return self._chunk(replies.call_delta(piece), None, logprobs)

    def _chunk(self, delta: Json, finish: str | None = None, logprobs: tuple[TokenLogprob, ...] | None = None) -> Json:
        return self.job.head.chunk([replies.chat_delta(self.index, delta, finish, logprobs)])


def finish_of(event: Event, reader: Reader) -> str:
    """Why a choice ended, in OpenAI's words; a call that was cut off ends as the text did."""
    if reader.num_calls and not (reader.is_open and event.finish_reason == "length"):
        return "tool_calls"
    return event.finish_reason or "stop"
