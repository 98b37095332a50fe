"""What an `LLM` gives back: a whole reply (`Output`), or one that is still being written (`Stream`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from lianlu.client.base import TokenLogprob
from lianlu.core.errors import RequestError
from lianlu.engine.collect import Pieces
from lianlu.engine.local import LocalClient
from lianlu.engine.sequence import Event, Request, Timings
from lianlu.formats.messages import Message, ToolCall, ToolSpec


@dataclass(frozen=True)
class Output:
    """A reply.

    `text` is what the model says, `message` the same with its tool calls, ready to be put behind the conversation.
    `token_ids` are those the model chose, end token included; `logprobs` has one entry for each if they were asked for.
    `finish_reason`: "stop", "length" (max_tokens, or no room), "tool_calls", or "cancelled" for a stream left early.
    `cached_tokens` of the `prompt_tokens` were found in the prefix cache. `timings` says where the time went.
    """

    text: str
    message: Message
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    timings: Timings | None

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls the model makes; empty where no tools were offered."""
        return self.message.tool_calls

    @property
    def completion_tokens(self) -> int:
        """Tokens the model chose, end token included."""
        return len(self.token_ids)

    def json(self) -> Any:
        """The text as a JSON value. Raises: RequestError for a text that is none (cut off, or no schema was given)."""
        try:
            return json.loads(self.text)
        except ValueError as error:
            hint = "raise max_tokens" if self.finish_reason == "length" else "ask with json_schema=..."
            raise RequestError(f"the reply is no JSON: {error}", hint=hint) from error


def output_of(event: Event, message: Message) -> Output:
    """The whole news of a request as an output."""
    reason = event.finish_reason or "cancelled"
    return Output(
        text=message.content,
        message=message,
        token_ids=event.token_ids,
        logprobs=event.logprobs,
        finish_reason="tool_calls" if message.tool_calls else reason,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        timings=event.timings,
    )


class Stream:
    """A reply as pieces of text, for `for` or `async for`, once; leaving the loop early cancels the request.

    `output` is the reply as far as it has come, the whole one after the loop.
    """

    def __init__(self, client: LocalClient, requests: Iterable[Request], tools: Sequence[ToolSpec]) -> None:
        """Use `LLM.stream` or `LLM.astream`; `requests` is one request, made when the stream begins."""
        self._client, self._requests, self._tools = client, requests, tools
        self._pieces: Pieces | None = None

    def begin(self) -> Stream:
        """Make the request. Raises: RequestError."""
        if self._pieces is None:
            self._pieces = self._client.pieces(self._request(), self._tools)
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self._begun())

    async def __aiter__(self) -> AsyncIterator[str]:
        if self._pieces is None:
            request = await asyncio.to_thread(self._request)
            self._pieces = self._client.pieces(request, self._tools)
        async for piece in self._pieces:
            yield piece

    @property
    def output(self) -> Output:
        """The reply as far as it has been read."""
        event = self._begun().event
        return output_of(event, self._client.message(event, self._tools))

    def close(self) -> None:
        """Cancel what is still under way; legal at any time and more than once."""
        if self._pieces is not None:
            self._pieces.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _begun(self) -> Pieces:
        self.begin()
        assert self._pieces is not None
        return self._pieces

    def _request(self) -> Request:
        """The request, checked here, so that a grammar is compiled in the caller's thread."""
        (request,) = self._requests
        self._client.engine.engine.check(request)
        return request
