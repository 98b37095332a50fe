from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.client import wire
from lianlu.client.base import ChatRequest, CompletionRequest, Constraint, Sampling, Scored
from lianlu.core.errors import RequestError
from lianlu.formats.messages import Message, ToolCall, ToolSpec

USER = Message(role="user", content="hi")


def test_chat_body_says_only_what_differs_from_the_defaults() -> None:
    body = wire.chat_body("m", ChatRequest([USER]))
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 256, "temperature": 0.0}


def test_chat_body_in_full() -> None:
    sampling = Sampling(9, 0.5, 0.9, 40, seed=7, stop=("\n", "x"), logprobs=2)
    tool = ToolSpec(name="f", description="d", parameters={"type": "object", "properties": {}})
    body = wire.chat_body("m", ChatRequest([USER], [tool], sampling))
    assert {k: v for k, v in body.items() if k not in ("messages", "tools")} == {
        "model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "stop": ["\n", "x"],
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    assert body["tools"] == [{"type": "function", "function": {"name": "f", "description": "d", "parameters": tool.parameters}}]
    assert wire.completion_body("m", CompletionRequest("p", sampling))["logprobs"] == 2


def test_penalties_biases_and_choices_go_out() -> None:
    sampling = Sampling(
        min_p=0.1, presence_penalty=0.5, frequency_penalty=-1.0, repetition_penalty=1.2, logit_bias=((5, -100.0),)
    )
    body = wire.chat_body("m", ChatRequest([USER], [ToolSpec(name="f")], sampling, tool_choice="f"))
    assert {k: v for k, v in body.items() if k not in ("model", "messages", "tools", "max_tokens", "temperature")} == {
        "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -1.0, "repetition_penalty": 1.2, "logit_bias": {"5": -100.0},
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }  # fmt: skip
    for choice in ("required", "none"):
        assert wire.chat_body("m", ChatRequest([USER], [ToolSpec(name="f")], tool_choice=choice))["tool_choice"] == choice


@pytest.mark.parametrize(
    ("constraint", "fields"),
    [
        (
            Constraint("json", '{"type": "object"}'),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        (Constraint("regex", "a+"), {"structured_outputs": {"regex": "a+"}}),
        (Constraint("lark", 'start: "a"'), {"structured_outputs": {"grammar": 'start: "a"'}}),
    ],
)
def test_constraints_go_out(constraint: Constraint, fields: dict[str, object]) -> None:
    body = wire.completion_body("m", CompletionRequest("p", Sampling(constraint=constraint)))
    assert {key: body[key] for key in fields} == fields


def test_a_schema_that_is_no_json_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="not JSON"):
        wire.completion_body("m", CompletionRequest("p", Sampling(constraint=Constraint("json", "{"))))


def test_calls_go_out_and_come_back() -> None:
    call = ToolCall(id="c1", name="f", arguments={"x": [1, "two"]})
    message = Message(role="assistant", content="well", tool_calls=[call])
    raw = wire.chat_body("m", ChatRequest([message]))["messages"][0]
    answer = {"choices": [{"message": raw, "finish_reason": "stop"}], "usage": {"prompt_tokens": 4, "completion_tokens": 5}}
    reply = wire.chat_reply(answer)
    assert (reply.message, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == (message, "tool_calls", 4, 5)


def broken_call(arguments: object) -> dict[str, object]:
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize("call", [broken_call("{x"), broken_call("[1]"), broken_call(3), {"id": "1"}, {"function": {}}, "text"])
def test_calls_that_cannot_be_read_stay_in_the_content(call: object) -> None:
    good = {"id": "2", "function": {"name": "g", "arguments": "{}"}}
    answer = {"choices": [{"message": {"content": None, "tool_calls": [call, good]}, "finish_reason": "tool_calls"}]}
    message = wire.chat_reply(answer).message
    assert [c.name for c in message.tool_calls] == ["g"]
    assert message.content.startswith("<tool_call>")


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        (None, "stop"),
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "stop"),
        ("content_filter", "error"),
        ("abort", "error"),
    ],
)
def test_finish_reasons(finish: str | None, expected: str) -> None:
    assert wire.chat_reply({"choices": [{"message": {"content": "a"}, "finish_reason": finish}]}).finish_reason == expected


def test_content_in_parts_and_logprobs() -> None:
    top = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -2.0}]
    logprobs = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": top}]}
    message = {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    reply = wire.chat_reply({"choices": [{"message": message, "finish_reason": "stop", "logprobs": logprobs}]})
    assert reply.text == "ab"
    assert reply.logprobs[0].top == (("a", -0.1), ("b", -2.0))


@pytest.mark.parametrize("answer", [None, [], {}, {"choices": []}, {"choices": ["x"]}, {"object": "error"}])
def test_an_answer_without_choices_is_an_error(answer: object) -> None:
    with pytest.raises(RequestError, match="no choices"):
        wire.chat_reply(answer)


def echoed(tokens: list[str], values: list[float | None], tops: list[dict[str, float] | None]) -> wire.Echo:
    offsets = [len("".join(tokens[:i])) for i in range(len(tokens))]
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
    return wire.echo({"choices": [{"text": "".join(tokens), "logprobs": logprobs, "finish_reason": "length"}]})


def test_an_echo_is_cut_and_added_up() -> None:
    echo = echoed(["a", "b", "c"], [None, -1.0, -0.5], [None, {"x": -0.2}, {"c": -0.5}])
    assert [echo.first_after(place) for place in (0, 1, 2)] == [0, 1, 2]
    assert echo.scored(2) == Scored(-0.5, 1, True)
    assert echo.scored(1) == Scored(-1.5, 2, False)
    assert echo.scored(3) == Scored(0, 0, True)
    with pytest.raises(RequestError, match="first token"):
        echo.scored(0)


def test_a_token_across_the_cut_is_noticed() -> None:
    echo = echoed(["ab", "cd"], [None, -1.0], [None, None])
    assert [echo.first_after(place) for place in range(5)] == [0, None, 1, None, None]


def test_pieces_of_one_character_all_count() -> None:
    echo = echoed(["a", "", "\u00e9"], [None, -1.0, -2.0], [None, None, None])
    first = echo.first_after(1)
    assert first is not None
    assert echo.scored(first).logprob == -3.0


@pytest.mark.parametrize("logprobs", [None, {}, {"tokens": ["a"], "token_logprobs": [-1.0]}])
def test_scoring_where_the_server_does_not_echo(logprobs: object) -> None:
    with pytest.raises(RequestError, match="does not return"):
        wire.echo({"choices": [{"text": "x", "logprobs": logprobs}]})


def test_ragged_logprobs_are_an_error() -> None:
    with pytest.raises(RequestError, match="do not match"):
        wire.completion_reply({"choices": [{"text": "x", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0]}}]})


def call_chunk(**piece: object) -> dict[str, object]:
    return {"choices": [{"delta": {"tool_calls": [piece]}}]}


@given(
    arguments=st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=6), max_size=4),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    indexed=st.booleans(),
)
def test_streamed_calls_are_put_together_from_any_pieces(arguments: dict[str, object], cuts: list[int], indexed: bool) -> None:
    text = json.dumps(arguments)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assembly = wire.Assembly()
    for number in range(2):
        extra = {"index": number} if indexed else {}
        assembly.add(call_chunk(id=f"c{number}", function={"name": "f"}, **extra))
        for begin, end in itertools.pairwise(places):
            assembly.add(call_chunk(function={"arguments": text[begin:end]}, **extra))
    assembly.add({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    calls = assembly.reply().message.tool_calls
    assert calls == [ToolCall(id=f"c{n}", name="f", arguments=arguments) for n in range(2)]


def test_a_stream_without_an_end_is_an_error() -> None:
    assembly = wire.Assembly()
    assembly.add({"choices": [{"delta": {"content": "half"}}]})
    with pytest.raises(RequestError, match="ended in the middle"):
        assembly.reply()


@pytest.mark.parametrize("error", [{"message": "out of memory"}, "out of memory", {"code": "out of memory"}])
def test_an_error_inside_a_stream(error: object) -> None:
    with pytest.raises(RequestError, match="out of memory"):
        wire.Assembly().add({"error": error})
