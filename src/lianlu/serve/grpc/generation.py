"""Generate and Abort: a stream of events for one sequence, and its end by its id.

A stream that ends early, by the client's cancel or deadline, a broken connection or Abort, ends its sequence before the
engine's next step. While a client does not read, its events are joined, so that what it holds up is bounded by its reply.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass, field

from lianlu.engine.background import Handle
from lianlu.serve.complete import encode_all
from lianlu.serve.failures import ApiError
from lianlu.serve.generate import finish_of
from lianlu.serve.grpc import messages
from lianlu.serve.grpc.calls import GONE, Call
from lianlu.serve.grpc.v1 import engine_pb2 as pb
from lianlu.serve.service import Service
from lianlu.serve.talk import Ask, Talk, asked, begin, check
from lianlu.serve.wire_chat import ToolUse

REQUEST_ID = re.compile(r"[!-~]{1,128}")
SHORTEST_S = 1e-3


@dataclass
class Running:
    """A generation that Abort can find; it has handles once its sequences are submitted."""

    handles: list[Handle] = field(default_factory=list)
    aborted: bool = False

    def abort(self) -> None:
        """End it; its reader is told by its last event."""
        self.aborted = True
        for handle in self.handles:
            handle.cancel()


class Generations:
    """The running generations of a server, by the caller's name and the request's id."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: dict[tuple[str, str], Running] = {}

    async def generate(self, request: pb.GenerateRequest, call: Call) -> None:
        """Send the events of one reply. Raises: RequestError, EngineError."""
        call.note = request_id = _id(request)
        key = (call.caller.name, request_id)
        if key in self._running:
            hint = "choose another id, or none"
            raise ApiError(f"there is a running request with the id {request_id!r}", status=409, hint=hint)
        running = self._running[key] = Running()
        try:
            await self._stream(request, call, request_id, running)
        except ApiError as error:
            if not running.aborted:
                raise
            raise ApiError("the request was ended by Abort", status=GONE) from error
        finally:
            del self._running[key]

    async def abort(self, request: pb.AbortRequest, call: Call) -> pb.AbortResponse:
        """End a running generation of the same caller."""
        call.note = request.request_id[:128] if REQUEST_ID.fullmatch(request.request_id) else ""
        running = self._running.get((call.caller.name, request.request_id))
        if running is not None:
            running.abort()
        return pb.AbortResponse(was_running=running is not None)

    async def _stream(self, request: pb.GenerateRequest, call: Call, request_id: str, running: Running) -> None:
        talk = await self._begin(request, call, request_id)
        running.handles = talk.run.handles
        try:
            if running.aborted:
                running.abort()
            await call.send(pb.GenerateEvent(request_id=request_id, model=talk.route.name))
            reader = talk.reader()
            async for batch in talk.run.batches():
                event = batch[0]
                pieces = reader.feed(event.text)
                if event.finish_reason is None:
                    await call.send(messages.generated(request_id, event, pieces, None))
                else:
                    pieces += reader.end()
                    await call.send(messages.generated(request_id, event, pieces, finish_of(event, reader)))
        finally:
            talk.run.cancel()

    async def _begin(self, request: pb.GenerateRequest, call: Call, request_id: str) -> Talk:
        """Check a request and submit its sequence. Raises: RequestError."""
        if not request.HasField("deadline_s") and call.left_s is not None:
            request.deadline_s = max(call.left_s, SHORTEST_S)
        max_tokens, logprobs = messages.limits(request.sampling)
        rule = messages.rule(request)
        if request.WhichOneof("prompt") == "chat":
            body = messages.chat_body(request)
            ask = Ask(body, body.conversation(), body.tool_use(), rule, max_tokens, logprobs)
            return await begin(self._service, call.caller, ask, request_id)
        prompt = request.text if request.WhichOneof("prompt") == "text" else list(request.token_ids.ids)
        text = messages.text_body(request)
        route = self._service.route(text.model, call.caller)
        (ids,) = await asyncio.to_thread(encode_all, route.tokenizer, [prompt])
        room = max(route.engine.engine.max_len - len(ids), 1)
        wanted = asked(text, tuple(ids), room if max_tokens is None else max_tokens, logprobs, 0, rule)
        await asyncio.to_thread(check, route, [wanted], rule)
        return Talk(self._service.run(route, call.caller, request_id, [wanted]), route, ToolUse(), sure=False)


def _id(request: pb.GenerateRequest) -> str:
    """The request's id. Raises: ApiError (400) for one that cannot stand in a log."""
    if not request.request_id:
        return f"gen-{uuid.uuid4().hex}"
    if not REQUEST_ID.fullmatch(request.request_id):
        hint = "use up to 128 visible ASCII characters, or leave it out"
        raise ApiError("the request_id cannot be used", hint=hint, param="request_id")
    return request.request_id
