"""POST /v1/embeddings: vectors of texts, as OpenAI has them; also what the gRPC server answers Embed with.

Texts are tokenised in a thread and go through the model in small passes between the steps of running requests, so that a
large batch holds nobody up; when the client goes, the next pass does not run. `dimensions` keeps the first so many numbers
of a vector and scales it to length 1 again, which costs little only with models that were trained for it (Matryoshka).
`truncate_prompt_tokens` (as vLLM has it) keeps the first so many tokens of a text, -1 as many as the model takes; `pooling`
and `normalize` are ours. Source: the OpenAI API reference (embeddings).
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lianlu.engine import embedding
from lianlu.engine.embedding import Vector
from lianlu.serve import service as services
from lianlu.serve.complete import encode_all
from lianlu.serve.exchange import as_bytes, read_body, unless_gone
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller, caller_of
from lianlu.serve.service import Service
from lianlu.serve.wire import Strict, parse_body

MAX_TEXTS = 2048
MAX_TOKENS = 300_000


class EmbeddingBody(Strict):
    """The body of POST /v1/embeddings."""

    model: str = ""
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    pooling: embedding.Pooling | None = None
    normalize: bool | None = None

    @model_validator(mode="after")
    def _something_to_embed(self) -> EmbeddingBody:
        texts = self.texts()
        if not texts or not all(texts):
            raise ApiError("input is empty, or has an empty text in it", hint="leave empty texts out", param="input")
        if len(texts) > MAX_TEXTS:
            raise ApiError(f"input has {len(texts)} texts", hint=f"send at most {MAX_TEXTS} at a time", param="input")
        if self.truncate_prompt_tokens == 0:
            hint = "use -1 for as many as the model takes"
            raise ApiError("truncate_prompt_tokens is 0", hint=hint, param="truncate_prompt_tokens")
        return self

    def texts(self) -> list[str | list[int]]:
        """Each input as a text or as token ids."""
        if isinstance(self.input, str):
            return [self.input]
        if self.input and isinstance(self.input[0], int):
            return [[token for token in self.input if isinstance(token, int)]]
        return [item for item in self.input if not isinstance(item, int)]


@dataclass(frozen=True)
class Embedded:
    """Vectors in the order of the texts, and what they took."""

    id: str
    model: str
    vectors: list[Vector]
    num_tokens: int


def routes(service: Service) -> list[Route]:
    """POST /v1/embeddings."""

    async def embeddings(request: Request) -> Response:
        body = parse_body(EmbeddingBody, await read_body(request, service.limits.max_body_bytes))
        found = await unless_gone(request.receive, embed(service, body, caller_of(request)))
        request.scope["lianlu.note"] = found.id
        raw = await asyncio.to_thread(_as_json, found, body.encoding_format == "base64")
        return Response(raw, headers={"X-Request-Id": found.id}, media_type="application/json")

    return [Route("/v1/embeddings", embeddings, methods=["POST"])]


async def embed(service: Service, body: EmbeddingBody, caller: Caller) -> Embedded:
    """Vectors of the texts of a body; cancelling stops before the next pass. Raises: RequestError, EngineError."""
    route = service.route(body.model, caller)
    model, max_len = route.engine.engine.model, route.engine.engine.max_len
    if body.dimensions is not None and body.dimensions > model.config.hidden_size:
        hint = f"this model's vectors have {model.config.hidden_size}"
        raise ApiError(f"dimensions is {body.dimensions}", hint=hint, param="dimensions")
    job_id = f"embd-{uuid.uuid4().hex}"
    encoded = await asyncio.to_thread(encode_all, route.tokenizer, body.texts())
    texts = [embedding.fitted(ids, model.config.vocab_size, max_len, body.truncate_prompt_tokens) for ids in encoded]
    num_tokens = sum(map(len, texts))
    if num_tokens > MAX_TOKENS:
        raise ApiError(f"input has {num_tokens} tokens", hint=f"send at most {MAX_TOKENS} at a time", param="input")
    caller.charge(num_tokens)
    options = (body.pooling or "mean", body.normalize is not False)
    vectors: list[Vector] = []
    async for found in _passes(route, texts, options):
        vectors += found
    return Embedded(job_id, route.name, _shortened(vectors, body), num_tokens)


async def _passes(
    route: services.Route, texts: list[Sequence[int]], options: tuple[embedding.Pooling, bool]
) -> AsyncIterator[list[Vector]]:
    """Vectors pass by pass, each computed in a turn of its own on the engine's thread."""
    background, engine = route.engine, route.engine.engine
    model = engine.model
    passes = embedding.embed(model, texts, *options)

    def one_pass() -> list[Vector] | None:
        with engine.adapters.everywhere(route.adapter):
            if engine.model is not model:
                raise ApiError("the model fell asleep before the embeddings were complete", status=503, hint="try again later")
            return next(passes, None)

    while (found := await background.acall(one_pass)) is not None:
        yield found


def _shortened(vectors: list[Vector], body: EmbeddingBody) -> list[Vector]:
    """The first `dimensions` numbers of each vector, at length 1 again."""
    if body.dimensions is None:
        return vectors
    cut = [vector[: body.dimensions] for vector in vectors]
    return cut if body.normalize is False else [embedding.scaled(vector) for vector in cut]


def _as_json(found: Embedded, as_base64: bool) -> bytes:
    """The reply; vectors as lists of numbers, or as little-endian float32 in base64."""
    written: Sequence[Any] = [_base64(vector) if as_base64 else vector.tolist() for vector in found.vectors]
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(written)]
    usage = {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens}
    return as_bytes({"id": found.id, "object": "list", "model": found.model, "data": data, "usage": usage})


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
