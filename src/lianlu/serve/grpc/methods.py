"""Embed, Tokenize, Detokenize and ListModels: the counterparts of the routes of `embed`, `tokens` and `listing`."""

from __future__ import annotations

import asyncio

from lianlu.serve import embed, tokens
from lianlu.serve.grpc import messages
from lianlu.serve.grpc.calls import Call
from lianlu.serve.grpc.v1 import engine_pb2 as pb
from lianlu.serve.listing import card
from lianlu.serve.service import Service
from lianlu.serve.tokens import DetokenizeBody


class Methods:
    """The methods that give one answer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        """Vectors of texts. Raises: RequestError, EngineError."""
        body = await asyncio.to_thread(messages.embedding_body, request)
        found = await embed.embed(self._service, body, call.caller)
        call.note = found.id
        return await asyncio.to_thread(_embedded, found)

    async def tokenize(self, request: pb.TokenizeRequest, call: Call) -> pb.TokenizeResponse:
        """Token ids of a text or a conversation. Raises: RequestError."""
        found = await tokens.tokenize(self._service, messages.tokenize_body(request), call.caller)
        return pb.TokenizeResponse(token_ids=found.tokens, max_model_len=found.max_model_len, tokens=found.token_strs or ())

    async def detokenize(self, request: pb.DetokenizeRequest, call: Call) -> pb.DetokenizeResponse:
        """The text of token ids. Raises: RequestError."""
        body = DetokenizeBody(model=request.model, tokens=list(request.token_ids))
        return pb.DetokenizeResponse(text=await tokens.detokenize(self._service, body, call.caller))

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """Every model and every adapter."""
        cards = [card(self._service, name) for name in (*self._service.models, *self._service.adapters)]
        return pb.ListModelsResponse(
            models=[
                pb.Model(
                    name=one["id"],
                    state=one["state"],
                    max_model_len=one.get("max_model_len", 0),
                    parent=one.get("parent", ""),
                    created=one["created"],
                )
                for one in cards
            ]
        )


def _embedded(found: embed.Embedded) -> pb.EmbedResponse:
    vectors = [pb.Embedding(values=vector.tolist()) for vector in found.vectors]
    usage = pb.Usage(prompt_tokens=found.num_tokens)
    return pb.EmbedResponse(request_id=found.id, model=found.model, embeddings=vectors, usage=usage)
