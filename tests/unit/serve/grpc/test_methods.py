"""Embed, Tokenize, Detokenize and ListModels: the answers of their counterparts in REST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from lianlu.engine.background import BackgroundEngine
from lianlu.serve.grpc.v1 import engine_pb2 as pb
from lianlu.serve.grpc.v1.engine_pb2_grpc import EngineStub
from lianlu.serve.models import Lora
from lianlu.serve.service import Service

TEXTS = ["a cat", "a dog and a cat", "nothing at all"]


def vectors(reply: pb.EmbedResponse) -> Any:
    return np.array([item.values for item in reply.embeddings], dtype=np.float32)


def test_vectors_are_those_of_rest(stub: EngineStub, tiny: BackgroundEngine, ask: Callable[..., httpx.Response]) -> None:
    for request, body in (
        (pb.EmbedRequest(texts=TEXTS), {}),
        (pb.EmbedRequest(texts=TEXTS, pooling=pb.POOLING_LAST, dimensions=7), {"pooling": "last", "dimensions": 7}),
        (pb.EmbedRequest(texts=TEXTS, normalize=False, truncate_tokens=3), {"normalize": False, "truncate_prompt_tokens": 3}),
    ):
        rest = ask("POST", "/v1/embeddings", engine=tiny, json={"input": TEXTS} | body).json()
        reply = stub.Embed(request)
        assert np.array_equal(vectors(reply), np.array([item["embedding"] for item in rest["data"]], dtype=np.float32))
        assert reply.usage.prompt_tokens == rest["usage"]["prompt_tokens"]
        assert (reply.model, reply.request_id[:5]) == ("tiny", "embd-")


def test_token_ids_in_place_of_texts(stub: EngineStub, tiny: BackgroundEngine) -> None:
    ids = [pb.TokenIds(ids=tiny.engine.tokenizer.encode(text)) for text in TEXTS]
    assert np.array_equal(vectors(stub.Embed(pb.EmbedRequest(token_ids=ids))), vectors(stub.Embed(pb.EmbedRequest(texts=TEXTS))))


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        ("Embed", pb.EmbedRequest(), "empty"),
        ("Embed", pb.EmbedRequest(texts=[""]), "empty"),
        ("Embed", pb.EmbedRequest(texts=["a"], token_ids=[pb.TokenIds(ids=[1])]), "both"),
        ("Embed", pb.EmbedRequest(token_ids=[pb.TokenIds(ids=[259])]), "outside"),
        ("Embed", pb.EmbedRequest(texts=["a"], dimensions=33), "dimensions"),
        ("Embed", pb.EmbedRequest(texts=["a"], pooling=9), "pooling"),
        ("Tokenize", pb.TokenizeRequest(chat=pb.Chat()), "messages"),
        ("Detokenize", pb.DetokenizeRequest(token_ids=[1, 2**32 - 1]), "outside 0..258"),
    ],
)
def test_refusals(stub: EngineStub, method: str, request_: Any, message: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()


def test_there_and_back(stub: EngineStub, tiny: BackgroundEngine) -> None:
    found = stub.Tokenize(pb.TokenizeRequest(text="Grüße", return_tokens=True))
    assert list(found.token_ids) == tiny.engine.tokenizer.encode("Grüße")
    assert found.max_model_len == tiny.engine.max_len
    assert len(found.tokens) == len(found.token_ids)
    assert stub.Detokenize(pb.DetokenizeRequest(token_ids=found.token_ids)).text == "Grüße"
    assert not stub.Tokenize(pb.TokenizeRequest()).token_ids


def test_a_conversation_is_tokenised(stub: EngineStub, tiny: BackgroundEngine, ask: Callable[..., httpx.Response]) -> None:
    chat = pb.Chat(messages=[pb.Message(role="user", content="Hi")], tools=[pb.Tool(name="add")], tool_choice="auto")
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
    body["tools"] = [{"type": "function", "function": {"name": "add"}}]
    for value in (True, False):
        rest = ask("POST", "/tokenize", engine=tiny, json=body | {"add_generation_prompt": value}).json()
        found = stub.Tokenize(pb.TokenizeRequest(chat=chat, add_generation_prompt=value))
        assert list(found.token_ids) == rest["tokens"]


def test_models_and_adapters(stub: EngineStub, service: Service, tiny: BackgroundEngine) -> None:
    service.adapters["styled"] = Lora("styled", service.default.path, service.default)
    model, adapter = stub.ListModels(pb.ListModelsRequest()).models
    assert (model.name, model.state, model.max_model_len, model.parent) == ("tiny", "ready", tiny.engine.max_len, "")
    assert model.created > 0
    assert (adapter.name, adapter.parent) == ("styled", "tiny")
