"""Generate and Abort with the grpcio client: events, parity with the engine and REST, and every way to end early."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianlu.client.base import Sampling
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.sequence import Request
from lianlu.formats.messages import Message
from lianlu.serve.grpc.server import GrpcServer
from lianlu.serve.grpc.v1 import engine_pb2 as pb
from lianlu.serve.grpc.v1.engine_pb2_grpc import EngineStub
from lianlu.serve.service import Service

LONG = pb.Sampling(max_tokens=4000, ignore_eos=True, temperature=0)


def asked(text: str = "Once upon", request_id: str = "", **sampling: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, request_id=request_id, sampling=pb.Sampling(**{"max_tokens": 12, **sampling}))


def code(caught: Any) -> grpc.StatusCode:
    return caught.value.code()


def ids(events: list[pb.GenerateEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def test_a_stream_tells_what_happens(stub: EngineStub, tiny: BackgroundEngine) -> None:
    events = list(stub.Generate(asked(temperature=0, logprobs=3, ignore_eos=True)))
    first, last = events[0], events[-1]
    assert first.request_id.startswith("gen-")
    assert first.model == "tiny"
    assert not first.token_ids
    assert {event.request_id for event in events} == {first.request_id}
    assert [event.finish_reason for event in events[:-1]] == [pb.FINISH_REASON_UNSPECIFIED] * (len(events) - 1)
    assert last.finish_reason == pb.FINISH_REASON_LENGTH
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (len("Once upon"), 12)
    assert last.timings.total_s > 0
    assert last.timings.num_steps >= 12
    tokenizer = tiny.engine.tokenizer
    assert "".join(event.text for event in events) == tokenizer.decode(ids(events))
    logprobs = [item for event in events for item in event.logprobs]
    assert len(logprobs) == len(ids(events)) == 12
    for item in logprobs:
        assert len(item.top) == 3
        assert item.logprob == item.top[0].logprob <= 0


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 1, "seed": 7, "top_p": 0.9, "top_k": 40, "min_p": 0.01}]
)
def test_ids_are_those_of_the_engine_and_text_is_that_of_rest(
    stub: EngineStub, tiny: BackgroundEngine, ask: Callable[..., httpx.Response], sampling: dict[str, Any]
) -> None:
    events = list(stub.Generate(asked(**sampling, ignore_eos=True)))
    prompt = tiny.engine.tokenizer.encode("Once upon")
    expected = tiny.submit(Request(tuple(prompt), Sampling(max_tokens=12, **sampling), ignore_eos=True)).result()
    assert ids(events) == list(expected.token_ids)
    by_ids = pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt), sampling=asked(**sampling, ignore_eos=True).sampling)
    assert ids(list(stub.Generate(by_ids))) == list(expected.token_ids)
    body = {"prompt": "Once upon", "max_tokens": 12, "ignore_eos": True} | sampling
    rest = ask("POST", "/v1/completions", engine=tiny, json=body).json()["choices"][0]
    assert "".join(event.text for event in events) == rest["text"]


def test_a_conversation_is_that_of_rest(stub: EngineStub, tiny: BackgroundEngine, ask: Callable[..., httpx.Response]) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    chat = pb.Chat(messages=[pb.Message(**message) for message in messages])
    sampling = pb.Sampling(max_tokens=9, seed=3, presence_penalty=0.5, logit_bias={70: 3.0}, stop=["\x00"])
    events = list(stub.Generate(pb.GenerateRequest(chat=chat, sampling=sampling)))
    body = {"messages": messages, "max_tokens": 9, "seed": 3, "presence_penalty": 0.5, "logit_bias": {"70": 3}, "stop": "\x00"}
    rest = ask("POST", "/v1/chat/completions", engine=tiny, json=body).json()
    assert "".join(event.text for event in events) == rest["choices"][0]["message"]["content"]
    rendered = tiny.engine.tokenizer.render([Message.model_validate(message) for message in messages], reply=True)
    assert events[-1].usage.prompt_tokens == len(rendered.ids) == rest["usage"]["prompt_tokens"]


def test_as_many_tokens_as_there_is_room_for(stub: EngineStub, tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.engine, "max_len", 48)
    prompt = [65] * (tiny.engine.max_len - 5)
    sampling = pb.Sampling(ignore_eos=True, temperature=0)
    events = list(stub.Generate(pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt), sampling=sampling)))
    assert len(ids(events)) == 5


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ({"json_schema": json.dumps(SCHEMA)}, None),
        ({"regex": "(yes|no) (one|two)"}, {"yes one", "yes two", "no one", "no two"}),
        ({"grammar": 'start: "left" | "right"'}, {"left", "right"}),
    ],
)
def test_constraints(stub: EngineStub, constraint: dict[str, str], pattern: set[str] | None) -> None:
    request = pb.GenerateRequest(text="Answer: ", sampling=pb.Sampling(max_tokens=200, seed=1), **constraint)
    events = list(stub.Generate(request))
    text = "".join(event.text for event in events)
    assert events[-1].finish_reason == pb.FINISH_REASON_STOP
    assert text in pattern if pattern else json.loads(text)["a"] in (1, 2)


TOOL = pb.Tool(name="add", parameters='{"type": "object", "properties": {}}')
USER = pb.Message(role="user", content="Hi")
BAD: list[tuple[pb.GenerateRequest, str]] = [
    (pb.GenerateRequest(), "prompt is empty"),
    (pb.GenerateRequest(token_ids=pb.TokenIds()), "prompt is empty"),
    (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[259])), "outside 0..258"),
    (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[65] * 5000)), "5000 tokens"),
    (pb.GenerateRequest(chat=pb.Chat()), "messages"),
    (pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="boss", content="Hi")])), "role"),
    (pb.GenerateRequest(chat=pb.Chat(messages=[USER], tools=[pb.Tool(name="add", parameters="{")])), "not JSON"),
    (pb.GenerateRequest(chat=pb.Chat(messages=[USER], tools=[pb.Tool(name="add", parameters="[1]")])), "parameters"),
    (pb.GenerateRequest(chat=pb.Chat(messages=[USER], tools=[TOOL], tool_choice="sub")), "not offered"),
    (pb.GenerateRequest(chat=pb.Chat(messages=[USER], tools=[TOOL]), regex="a"), "while tools are offered"),
    (asked(temperature=-1), "temperature"),
    (asked(temperature=float("nan")), "temperature"),
    (asked(top_p=0), "top_p"),
    (asked(min_p=2), "min_p"),
    (asked(max_tokens=0), "max_tokens"),
    (asked(logprobs=21), "logprobs"),
    (asked(stop=[""]), "stop"),
    (asked(logit_bias={300: 1.0}), "logit_bias"),
    (asked(logit_bias={3: 101.0}), "logit_bias"),
    (asked(request_id="a b"), "request_id"),
    (pb.GenerateRequest(text="a", json_schema="{"), "json_schema is not JSON"),
    (pb.GenerateRequest(text="a", json_schema="[]"), "json_schema should be an object"),
    (pb.GenerateRequest(text="a", regex="("), "regex"),
    (pb.GenerateRequest(text="a", grammar=" "), "grammar is empty"),
    (pb.GenerateRequest(text="a", deadline_s=-1), "deadline_s"),
]


@pytest.mark.parametrize(("request_", "message"), BAD, ids=[message for _, message in BAD])
def test_what_makes_no_sense_is_refused(
    stub: EngineStub, at_rest: Callable[[], bool], request_: pb.GenerateRequest, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(request_))
    assert code(caught) is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert message in caught.value.details()
    assert at_rest()


numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
counts = st.integers(0, 2**32 - 1)
samplings = st.fixed_dictionaries(
    {"max_tokens": st.integers(0, 3)},
    optional={
        "temperature": numbers,
        "top_p": numbers,
        "top_k": counts,
        "min_p": numbers,
        "presence_penalty": numbers,
        "frequency_penalty": numbers,
        "repetition_penalty": numbers,
        "seed": st.integers(-(2**63), 2**63 - 1),
        "stop": st.lists(st.text(max_size=3), max_size=3),
        "logprobs": st.integers(0, 30),
        "logit_bias": st.dictionaries(st.integers(0, 300), numbers, max_size=3),
        "ignore_eos": st.booleans(),
    },
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
prompts = st.one_of(
    st.builds(dict, text=texts),
    st.builds(dict, token_ids=st.builds(lambda found: pb.TokenIds(ids=found), st.lists(st.integers(0, 300), max_size=4))),
    st.builds(
        lambda roles, content: {"chat": pb.Chat(messages=[pb.Message(role=role, content=content) for role in roles])},
        st.lists(st.sampled_from(["system", "user", "assistant", "tool", "", "x"]), max_size=3),
        texts,
    ),
)
forms = st.one_of(
    st.just({}),
    st.builds(dict, json_schema=texts),
    st.builds(dict, regex=texts),
    st.builds(dict, session=texts),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samplings, prompts, forms, st.sampled_from([{}, {"deadline_s": 5.0}, {"deadline_s": -0.0}, {"request_id": "x y"}]))
def test_whatever_is_asked_there_is_an_answer(
    stub: EngineStub, sampling: dict[str, Any], prompt: dict[str, Any], form: dict[str, str], rest: dict[str, Any]
) -> None:
    request = pb.GenerateRequest(sampling=pb.Sampling(**sampling), **prompt, **form, **rest)
    code, events = answered(stub, request)
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
    assert code is grpc.StatusCode.INVALID_ARGUMENT or events[-1].finish_reason


def answered(stub: EngineStub, request: pb.GenerateRequest) -> tuple[grpc.StatusCode, list[pb.GenerateEvent]]:
    """The status of a call and its events."""
    try:
        return grpc.StatusCode.OK, list(stub.Generate(request, timeout=20))
    except grpc.RpcError as error:
        return error.code(), []


def test_other_models_are_not_found(stub: EngineStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(pb.GenerateRequest(text="a", model="other")))
    assert code(caught) is grpc.StatusCode.NOT_FOUND
    assert "'tiny'" in caught.value.details()


def test_a_cancel_in_the_middle_leaves_nothing(stub: EngineStub, tiny: BackgroundEngine, at_rest: Callable[[], bool]) -> None:
    before = tiny.stats().generated_tokens
    call = stub.Generate(pb.GenerateRequest(text="Once", sampling=LONG))
    for _, event in zip(range(4), call, strict=False):
        assert not event.finish_reason
    call.cancel()
    assert at_rest()
    assert tiny.stats().generated_tokens - before < 4000
    tiny.call(tiny.engine.scheduler.audit)


def test_a_deadline_ends_the_sequence(stub: EngineStub, tiny: BackgroundEngine, at_rest: Callable[[], bool]) -> None:
    before = tiny.stats().generated_tokens
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Generate(pb.GenerateRequest(text="Once", sampling=LONG), timeout=0.3))
    assert code(caught) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert at_rest()
    assert tiny.stats().generated_tokens - before < 4000


def test_a_channel_that_closes_ends_the_sequence(server: GrpcServer, tiny: BackgroundEngine, at_rest: Callable[[], bool]) -> None:
    before = tiny.stats().generated_tokens
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        next(EngineStub(channel).Generate(pb.GenerateRequest(text="Once", sampling=LONG)))
    assert at_rest()
    assert tiny.stats().generated_tokens - before < 4000


def test_abort_by_id(stub: EngineStub, at_rest: Callable[[], bool]) -> None:
    call = stub.Generate(pb.GenerateRequest(text="Once", request_id="mine", sampling=LONG))
    assert next(call).request_id == "mine"
    assert next(call).token_ids
    with pytest.raises(grpc.RpcError) as again:
        list(stub.Generate(asked(request_id="mine")))
    assert code(again) is grpc.StatusCode.ALREADY_EXISTS
    assert stub.Abort(pb.AbortRequest(request_id="mine")).was_running
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert code(caught) is grpc.StatusCode.CANCELLED
    assert "Abort" in caught.value.details()
    assert at_rest()
    assert not stub.Abort(pb.AbortRequest(request_id="mine")).was_running
    assert list(stub.Generate(asked(request_id="mine")))[-1].finish_reason


def test_abort_before_the_sequence_is_submitted(
    stub: EngineStub, service: Service, at_rest: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = service.default.engine.engine.tokenizer  # type: ignore[union-attr]
    inside, go_on, encode = threading.Event(), threading.Event(), tokenizer.encode

    def slow(*args: Any) -> list[int]:
        inside.set()
        assert go_on.wait(20)
        return encode(*args)

    monkeypatch.setattr(tokenizer, "encode", slow)
    call = stub.Generate(pb.GenerateRequest(text="Once", request_id="early", sampling=LONG))
    assert inside.wait(20)
    assert stub.Abort(pb.AbortRequest(request_id="early")).was_running
    go_on.set()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert code(caught) is grpc.StatusCode.CANCELLED
    assert at_rest()


def test_two_hundred_streams_at_once(server: GrpcServer, tiny: BackgroundEngine, at_rest: Callable[[], bool]) -> None:
    expected = tiny.submit(Request(tuple(tiny.engine.tokenizer.encode("Once")), Sampling(max_tokens=6), ignore_eos=True)).result()

    async def one(stub: EngineStub, number: int) -> list[int]:
        request = pb.GenerateRequest(text="Once", sampling=pb.Sampling(max_tokens=6, temperature=0, ignore_eos=True))
        call = stub.Generate(request)
        found: list[int] = []
        async for event in call:
            found += event.token_ids
            if number % 4 == 3 and event.token_ids:
                call.cancel()
                return []
        return found

    async def main() -> list[list[int]]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = EngineStub(channel)
            return await asyncio.gather(*(one(stub, number) for number in range(200)))

    results = asyncio.run(main())
    assert [found for number, found in enumerate(results) if number % 4 != 3] == [list(expected.token_ids)] * 150
    assert at_rest()
    tiny.call(tiny.engine.scheduler.audit)
