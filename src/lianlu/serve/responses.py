"""POST /v1/responses: a conversation in items, with an answer that can be gone on from.

    POST   /v1/responses        answers; with `stream` as events
    GET    /v1/responses/{id}   a stored response
    DELETE /v1/responses/{id}   forget it

The sequence runs as for a chat completion (`talk`); `response_events` tells of it, `response_store` keeps it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from lianlu.engine.sequence import Event
from lianlu.formats.messages import Message, ToolCall
from lianlu.serve.exchange import Batch, answer, as_bytes, json_response, read_body
from lianlu.serve.failures import ApiError, as_json, log_failure
from lianlu.serve.keys import Caller, caller_of
from lianlu.serve.reading import WholeCall
from lianlu.serve.replies import Head, Json
from lianlu.serve.response_events import EventWriter, Narrator
from lianlu.serve.response_items import ResponseShape, Status
from lianlu.serve.response_store import ResponseStore, Stored
from lianlu.serve.run import Run
from lianlu.serve.service import Service
from lianlu.serve.talk import Ask, Talk, begin
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_responses import ResponsesBody, to_messages


def routes(service: Service) -> list[Route]:
    """Responses: asking, looking up, forgetting."""
    store = ResponseStore()

    async def create(request: HttpRequest) -> Response:
        body = parse_body(ResponsesBody, await read_body(request, service.limits.max_body_bytes))
        preparing = prepare_response(service, store, body, caller_of(request))
        return await answer(request, preparing, bool(body.stream), done=b"")

    async def retrieve(request: HttpRequest) -> Response:
        if request.query_params.get("stream", "false").lower() == "true":
            raise ApiError("a stored response cannot be streamed", hint="ask without stream", param="stream")
        stored = store.get(request.path_params["response_id"], caller_of(request).salt)
        return json_response(stored.response)

    async def delete(request: HttpRequest) -> Response:
        response_id = request.path_params["response_id"]
        store.delete(response_id, caller_of(request).salt)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/{response_id}", retrieve, methods=["GET"]),
        Route("/v1/responses/{response_id}", delete, methods=["DELETE"]),
    ]


async def prepare_response(service: Service, store: ResponseStore, body: ResponsesBody, caller: Caller) -> ResponseJob:
    """Put the conversation together and submit it. Raises: RequestError."""
    before: tuple[Message, ...] = ()
    if body.previous_response_id is not None:
        before = store.get(body.previous_response_id, caller.salt, param="previous_response_id").messages
    names = {call.id: call.name for message in before for call in message.tool_calls}
    new = to_messages(body.items(), names)
    told = [Message(role="system", content=body.instructions)] if body.instructions else []
    ask = Ask(
        body,
        [*told, *before, *new],
        body.tool_use(),
        body.rule(),
        body.max_output_tokens,
        body.num_logprobs,
        prompt_field="input",
    )
    head = Head.response()
    talk = await begin(service, caller, ask, head.id)
    shape = ResponseShape(head.named(talk.route.name), body)
    memory = Memory(store, caller.salt, before, new) if body.store is not False else None
    return ResponseJob(shape, talk, Narrator(talk.reader(), body.num_logprobs is not None), memory)


@dataclass
class Memory:
    """Where a response is kept, and the conversation it ends."""

    store: ResponseStore
    owner: str
    before: tuple[Message, ...]
    new: list[Message]

    def keep(self, response: Json, text: str, calls: list[WholeCall]) -> None:
        """Store the response with its conversation; calls that were cut off are not gone on from."""
        whole = [made for call in calls if (made := _whole(call)) is not None]
        said = [Message(role="assistant", content=text, tool_calls=whole)] if text or whole else []
        added = [*self.new, *said]
        size = len(as_bytes(response)) + sum(len(message.model_dump_json()) for message in added)
        self.store.put(Stored(response, (*self.before, *added), self.owner, size))


def _whole(call: WholeCall) -> ToolCall | None:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return None
    return ToolCall(id=call.id, name=call.name, arguments=arguments) if isinstance(arguments, dict) else None


@dataclass
class ResponseJob:
    """A response under way."""

    shape: ResponseShape
    talk: Talk
    narrator: Narrator
    memory: Memory | None

    @property
    def head(self) -> Head:
        """The response's id and model."""
        return self.shape.head

    @property
    def run(self) -> Run:
        """The sequence."""
        return self.talk.run

    async def whole(self) -> Json:
        """The response object."""
        (event,) = await self.run.results()
        for _ in self.narrator.feed(event):
            pass
        return self._finished(event)

    async def chunks(self) -> AsyncIterator[Batch]:
        """The events of the response; a failure on the way is one of them."""
        writer = EventWriter()
        started = self.shape.of("in_progress", [])
        yield [writer.write({"type": f"response.{kind}", "response": started}) for kind in ("created", "in_progress")]
        try:
            async for batch in self.run.batches():
                event = batch[0]
                told = [writer.write(item) for item in self.narrator.feed(event)]
                if event.finish_reason is not None:
                    response = self._finished(event)
                    told.append(writer.write({"type": f"response.{response['status']}", "response": response}))
                yield [*told]
        except Exception as error:
            log_failure(error, "a stream")
            yield [writer.write({"type": "response.failed", "response": self._failed(error)})]

    def _finished(self, event: Event) -> Json:
        """The response object at the end, which is kept if it shall be."""
        status: Status = "incomplete" if event.finish_reason == "length" else "completed"
        response = self.shape.of(status, self.narrator.items, event)
        if self.memory is not None:
            self.memory.keep(response, self.narrator.text, self.narrator.calls)
        return response

    def _failed(self, error: Exception) -> Json:
        message = as_json(error)[1]["error"]["message"]
        return self.shape.of("failed", self.narrator.items, error={"code": "server_error", "message": message})
