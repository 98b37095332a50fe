"""The gRPC server beside the REST one, with the grpcio client: a whole server process's worth of both, one model."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import openai
import pytest

from lianlu.serve.grpc.v1 import engine_pb2 as pb
from lianlu.serve.grpc.v1.engine_pb2_grpc import EngineStub
from lianlu.serve.grpc.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from lianlu.serve.main import running_server

pytestmark = pytest.mark.e2e
TOOL = pb.Tool(name="add", parameters='{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}')
USER = pb.Message(role="user", content="Add one")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def served(reciter: Path) -> Iterator[tuple[str, grpc.Channel]]:
    """A server's URL and a channel to its gRPC port."""
    port = free_port()
    with (
        running_server(reciter, name="reciter", grpc_port=port) as url,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield url, channel


@pytest.fixture
def stub(served: tuple[str, grpc.Channel]) -> EngineStub:
    return EngineStub(served[1])


def test_a_text_goes_on(stub: EngineStub) -> None:
    request = pb.GenerateRequest(text="abc", sampling=pb.Sampling(max_tokens=5, temperature=0))
    events = list(stub.Generate(request))
    assert "".join(event.text for event in events) == "defgh"
    assert events[0].model == "reciter"
    assert events[-1].finish_reason == pb.FINISH_REASON_LENGTH


def test_a_call_comes_in_pieces(stub: EngineStub, served: tuple[str, grpc.Channel]) -> None:
    chat = pb.Chat(messages=[USER], tools=[TOOL])
    events = list(stub.Generate(pb.GenerateRequest(chat=chat, sampling=pb.Sampling(temperature=0, max_tokens=100))))
    deltas = [delta for event in events for delta in event.tool_calls]
    assert (deltas[0].index, deltas[0].name, deltas[0].id[:5]) == (0, "add", "call_")
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"a": 1}
    assert "".join(event.text for event in events).strip() == "Let me add."
    assert events[-1].finish_reason == pb.FINISH_REASON_TOOL_CALLS
    answer = pb.Message(role="tool", content="2", tool_call_id=deltas[0].id)
    call = pb.ToolCall(id=deltas[0].id, name="add", arguments='{"a": 1}')
    told = pb.Chat(messages=[USER, pb.Message(role="assistant", tool_calls=[call]), answer], tools=[TOOL], tool_choice="none")
    assert stub.Tokenize(pb.TokenizeRequest(chat=told)).token_ids
    assert list(stub.Generate(pb.GenerateRequest(chat=told, sampling=pb.Sampling(max_tokens=3))))[-1].finish_reason


def test_the_same_words_behind_both_doors(stub: EngineStub, served: tuple[str, grpc.Channel]) -> None:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none") as client:
        for seed in (1, 2, 3):
            request = pb.GenerateRequest(text="abc", sampling=pb.Sampling(max_tokens=20, temperature=2, seed=seed, logprobs=1))
            events = list(stub.Generate(request))
            rest = client.completions.create(
                model="reciter", prompt="abc", max_tokens=20, temperature=2, seed=seed, logprobs=1
            ).choices[0]
            assert "".join(event.text for event in events) == rest.text
            logprobs = [item.logprob for event in events for item in event.logprobs]
            assert rest.logprobs is not None
            assert logprobs == rest.logprobs.token_logprobs


def test_vectors_are_the_same_behind_both_doors(stub: EngineStub, served: tuple[str, grpc.Channel]) -> None:
    texts = [f"text {number}" for number in range(40)]
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none") as client:
        rest = client.embeddings.create(model="reciter", input=texts)
    found = stub.Embed(pb.EmbedRequest(model="reciter", texts=texts))
    assert np.array_equal([item.embedding for item in rest.data], [list(item.values) for item in found.embeddings])


def test_why_knows_the_requests_of_grpc(stub: EngineStub, served: tuple[str, grpc.Channel]) -> None:
    request = pb.GenerateRequest(text="abc", request_id="asked-by-grpc", sampling=pb.Sampling(max_tokens=5))
    assert list(stub.Generate(request))
    found = httpx.get(f"{served[0]}/debug/why/asked-by-grpc").json()
    assert (found["id"], found["model"], found["state"]) == ("asked-by-grpc", "reciter", "finished")


def test_health_and_the_end(reciter: Path) -> None:
    port = free_port()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = EngineStub(channel)
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        with running_server(reciter, grpc_port=port, api_key="secret", drain_s=0.2):
            news = watch(HealthCheckRequest())
            assert next(news).status == HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListModels(pb.ListModelsRequest())
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            long = pb.GenerateRequest(text="abc", sampling=pb.Sampling(max_tokens=4000, temperature=0))
            call = stub.Generate(long, metadata=(("authorization", "Bearer secret"),))
            assert next(call).model
        assert [item.status for item in news] == [HealthCheckResponse.NOT_SERVING]
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "before the reply was complete" in caught.value.details()
