"""A client for any OpenAI-compatible server: lianlu's own, vLLM, llama.cpp, Ollama or a hosted one.

`engine.connect` makes one for a URL. Requests of a batch run side by side in threads and come back in order; the first
one that fails for good ends the batch. Scoring needs a server whose /completions echoes the prompt with
log-probabilities (lianlu's and vLLM's do, hosted ones mostly not). Source: the OpenAI API reference; what servers make
of it differs, see `client.wire`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from lianlu.client import wire
from lianlu.client.base import ChatRequest, ChatScoreRequest, CompletionRequest, Delta, Reply, Scored, ScoreRequest
from lianlu.client.http import KEY_VARIABLE, JsonHttp
from lianlu.core.errors import RequestError

Q = TypeVar("Q")
A = TypeVar("A")


class OpenAIClient:
    """Talks to the server at `url` (with or without /v1). Without `model` it takes the first one the server lists.

    `api_key` defaults to the variable LIANLU_API_KEY. `timeout_s` is the longest silence, not the longest reply.
    Raises: RequestError if `model` is not given and the server cannot be asked.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        api_key: str | None = None,
        timeout_s: float = 600,
        concurrency: int = 8,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        self._http = JsonHttp(api_root(url), key, timeout_s, transport)
        self._concurrency = max(concurrency, 1)
        try:
            self.name = model or self.models()[0]
        except BaseException:
            self._http.close()
            raise

    def models(self) -> list[str]:
        """Names of the models that the server offers. Raises: RequestError if there are none."""
        answer = self._http.get("models")
        listed = answer.get("data") if isinstance(answer, dict) else None
        names = [item["id"] for item in listed or () if isinstance(item, dict) and item.get("id")]
        if not names:
            raise RequestError(f"{self._http.url} lists no models", hint="name the model, or check the URL", status=502)
        return names

    def chat(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """Replies to the conversations, in order. Raises: RequestError."""
        return self._map(self._chat, requests)

    def complete(self, requests: Sequence[CompletionRequest]) -> list[Reply]:
        """Continuations of the texts, in order. Raises: RequestError."""
        return self._map(self._complete, requests)

    def score(self, requests: Sequence[ScoreRequest | ChatScoreRequest]) -> list[Scored]:
        """Log-probabilities of the continuations, in order. Raises: RequestError, always so for conversations."""
        texts = [request for request in requests if isinstance(request, ScoreRequest)]
        if len(texts) < len(requests):
            hint = "score conversations with a local model: give its folder or name instead of a URL"
            raise RequestError("the OpenAI API cannot score a conversation", hint=hint, status=501)
        return self._map(self._score, texts)

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        """One reply piece by piece; the last delta carries the whole. Closing the iterator cancels the request."""
        body = wire.chat_body(self.name, request) | {"stream": True, "stream_options": {"include_usage": True}}
        assembly = wire.Assembly()
        with contextlib.closing(self._http.stream("chat/completions", body)) as source:
            for event in source:
                if event.data.strip() == "[DONE]":
                    break
                if text := assembly.add(_chunk(event.kind, event.data)):
                    yield Delta(text=text)
        yield Delta(reply=assembly.reply())

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def _chat(self, request: ChatRequest) -> Reply:
        return wire.chat_reply(self._http.post("chat/completions", wire.chat_body(self.name, request)))

    def _complete(self, request: CompletionRequest) -> Reply:
        return wire.completion_reply(self._http.post("completions", wire.completion_body(self.name, request)))

    def _score(self, request: ScoreRequest) -> Scored:
        """As `engine.local` does it: spaces that end the context belong to the continuation, and where a token reaches
        across the cut, the cut is where the tokens of the context alone would end."""
        context = request.context.rstrip()
        whole = self._echo(request.context + request.continuation)
        first = whole.first_after(len(context))
        return whole.scored(len(self._echo(context).tokens) if first is None else first)

    def _echo(self, text: str) -> wire.Echo:
        return wire.echo(self._http.post("completions", wire.echo_body(self.name, text)))

    def _map(self, function: Callable[[Q], A], requests: Sequence[Q]) -> list[A]:
        if len(requests) <= 1 or self._concurrency == 1:
            return [function(request) for request in requests]
        pool = ThreadPoolExecutor(min(self._concurrency, len(requests)), thread_name_prefix="lianlu-client")
        try:
            return list(pool.map(function, requests))
        finally:
            pool.shutdown(cancel_futures=True)


def api_root(url: str) -> str:
    """The address below which the API lies: `url`, with http:// and /v1 added where they are missing."""
    text = url.strip()
    text = (text if "://" in text else f"http://{text}").rstrip("/")
    return text if re.search(r"://[^/]+/.*v\d+[a-z0-9]*$", text) else f"{text}/v1"


def _chunk(kind: str, data: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        hint = "the connection may have been cut; look at the server's log"
        raise RequestError(f"the stream has a piece that is not JSON: {data[:200]!r}", hint=hint, status=502) from error
    if kind == "error" and not (isinstance(value, dict) and value.get("error")):
        return {"error": value}
    if not isinstance(value, dict):
        raise RequestError(f"the stream has a piece that is no object: {data[:200]!r}", hint="is this an OpenAI API?", status=502)
    return value
