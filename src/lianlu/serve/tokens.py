"""Text to token ids and back over HTTP, in vLLM's shapes: what a prompt costs before it is sent.

    POST /tokenize, /v1/tokenize       {prompt | messages (+ tools)} -> {count, max_model_len, tokens, token_strs}
    POST /detokenize, /v1/detokenize   {tokens} -> {prompt}

The ids are those that /v1/completions and /v1/chat/completions would feed the model: control tokens spelled out in a text
are text. `detokenize` writes control tokens out. Source: vLLM's OpenAI-compatible server (tokenizer API).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lianlu.serve.exchange import json_response, read_body, unless_gone
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller, caller_of
from lianlu.serve.service import Service
from lianlu.serve.wire import Strict, parse_body
from lianlu.serve.wire_chat import ChatBody, ChatMessage, Tool
from lianlu.tokenizer.tokenizer import Tokenizer


class TokenizeBody(Strict):
    """The body of POST /tokenize: a prompt or a conversation."""

    model: str = ""
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ApiError("send either prompt or messages", param="prompt", code="missing_required_parameter")
        if self.prompt is not None and (self.tools or self.add_generation_prompt is not None):
            name = "tools" if self.tools else "add_generation_prompt"
            raise ApiError(f"{name} belongs to messages", hint="send messages in place of the prompt", param=name)
        if self.messages is not None and self.add_special_tokens:
            hint = "leave it out"
            raise ApiError("the chat template writes its own control tokens", hint=hint, param="add_special_tokens")
        return self

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """The token ids. Raises: RequestError for a conversation that the template refuses."""
        if self.messages is None:
            opening = [tokenizer.bos_id] if tokenizer.adds_bos and self.add_special_tokens is not False else []
            return [*(token for token in opening if token is not None), *tokenizer.encode(self.prompt or "")]
        chat = ChatBody(messages=self.messages, tools=self.tools)
        return tokenizer.render(chat.conversation(), chat.tool_use().shown, reply=self.add_generation_prompt is not False).ids


class DetokenizeBody(Strict):
    """The body of POST /detokenize."""

    model: str = ""
    tokens: list[int]


@dataclass(frozen=True)
class Tokenized:
    """Token ids, the longest sequence of the model, and the tokens as the vocabulary spells them if they were asked for."""

    tokens: list[int]
    max_model_len: int
    token_strs: list[str] | None


def routes(service: Service) -> list[Route]:
    """POST /tokenize and /detokenize, also below /v1."""

    async def to_tokens(request: Request) -> Response:
        body = parse_body(TokenizeBody, await read_body(request, service.limits.max_body_bytes))
        found = await unless_gone(request.receive, tokenize(service, body, caller_of(request)))
        counts = {"count": len(found.tokens), "max_model_len": found.max_model_len}
        return json_response(counts | {"tokens": found.tokens, "token_strs": found.token_strs})

    async def to_text(request: Request) -> Response:
        body = parse_body(DetokenizeBody, await read_body(request, service.limits.max_body_bytes))
        return json_response({"prompt": await unless_gone(request.receive, detokenize(service, body, caller_of(request)))})

    found = [Route(f"{prefix}/tokenize", to_tokens, methods=["POST"]) for prefix in ("", "/v1")]
    return found + [Route(f"{prefix}/detokenize", to_text, methods=["POST"]) for prefix in ("", "/v1")]


async def tokenize(service: Service, body: TokenizeBody, caller: Caller) -> Tokenized:
    """Token ids of a prompt or a conversation. Raises: RequestError."""
    route = service.route(body.model, caller)
    ids = await asyncio.to_thread(body.ids, route.tokenizer)
    texts = [route.tokenizer.token(token) or "" for token in ids] if body.return_token_strs else None
    return Tokenized(ids, route.engine.engine.max_len, texts)


async def detokenize(service: Service, body: DetokenizeBody, caller: Caller) -> str:
    """The text of token ids, control tokens included. Raises: RequestError (400) for ids that are none."""
    tokenizer = service.route(body.model, caller).tokenizer
    size = tokenizer.vocab_size
    if any(not 0 <= token < size for token in body.tokens):
        raise ApiError(f"there are token ids outside 0..{size - 1}", hint="use this model's tokenizer", param="tokens")
    return await asyncio.to_thread(tokenizer.decode, body.tokens, False)
