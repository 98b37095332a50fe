"""Request bodies: what is taken, what is refused, and what the refusal says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.formats.messages import Message, ToolCall, ToolSpec
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import ChatBody, CompletionBody, parse_body

USER = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> ChatBody:
    return parse_body(ChatBody, json.dumps({"model": "m", "messages": USER} | fields).encode())


def complete(**fields: Any) -> CompletionBody:
    return parse_body(CompletionBody, json.dumps({"model": "m", "prompt": "a"} | fields).encode())


def refusal(cls: type[Any], raw: bytes) -> ApiError | None:
    try:
        parse_body(cls, raw)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ({"temperature": "0.5"}, "temperature: input should be a valid number (got '0.5')", "temperature"),
        ({"temperature": 2.1}, "less than or equal to 2", "temperature"),
        ({"top_p": 0}, "greater than 0", "top_p"),
        ({"n": True}, "n: input should be a valid integer", "n"),
        ({"n": 0}, "greater than or equal to 1", "n"),
        ({"max_tokens": 1.5}, "valid integer", "max_tokens"),
        ({"max_tokens": 0}, "at least 1", "max_tokens"),
        ({"stop": 5}, "stop: should be a string or a list of strings (got 5)", "stop"),
        ({"stop": ["a", 5]}, "stop: should be a string or a list of strings (got 5)", "stop"),
        ({"stop": ""}, "none of them empty", "stop"),
        ({"stop": ["x"] * 17}, "up to 16", "stop"),
        ({"seed": 2**63}, "less than", "seed"),
        ({"messages": []}, "at least 1 item", "messages"),
        ({"messages": "hi"}, "valid array", "messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages.0.role", "messages"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content: should be a string or a list of text parts",
            "messages",
        ),
        ({"messages": [{"role": "user"}]}, "role 'user' has no content", "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role is required", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "reads text only", "messages"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0", "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "cannot be forced", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "cannot be forced", "tool_choice"),
        ({"top_logprobs": 2}, "needs logprobs", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "less than or equal to 20", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "needs stream", "stream_options"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported", "response_format"),
        ({"presence_penalty": 0.5}, "not supported", "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "not supported", "logit_bias"),
        ({"temprature": 1}, "unknown field 'temprature'", "temprature"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], said: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert said in caught.value.message
    assert (caught.value.param, caught.value.status) == (param, 400)
    assert "pydantic" not in caught.value.message
    assert "[" not in caught.value.message.split("(got")[0]


def test_a_misspelt_field_gets_a_proposal() -> None:
    with pytest.raises(ApiError) as caught:
        chat(max_token=5)
    assert caught.value.hint == "did you mean max_tokens?"


@pytest.mark.parametrize("raw", [b"", b"{", b"nul", b'{"messages": "\xff"}', b'{"messages": "\\ud800"}', b"[" * 100_000, b"{}{}"])
def test_what_is_no_json(raw: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_body(ChatBody, raw)
    assert "not JSON" in caught.value.message
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"text"'])
def test_json_that_is_no_object(raw: bytes) -> None:
    with pytest.raises(ApiError, match="the body: input should be an object"):
        parse_body(ChatBody, raw)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_are_finite(number: str) -> None:
    with pytest.raises(ApiError, match="temperature: input should be a finite number"):
        parse_body(ChatBody, b'{"messages": [{"role": "user", "content": "x"}], "temperature": %s}' % number.encode())


@given(st.binary(max_size=200))
def test_any_bytes_give_a_body_or_an_api_error(raw: bytes) -> None:
    for cls in (ChatBody, CompletionBody):
        refused = refusal(cls, raw)
        assert refused is None or (refused.status == 400 and refused.message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*ChatBody.model_fields, *CompletionBody.model_fields, "user", "suffix"]), json_values))
def test_any_object_gives_a_body_or_an_api_error(fields: dict[str, Any]) -> None:
    for cls, needed in ((ChatBody, {"messages": USER}), (CompletionBody, {"prompt": "x"})):
        refused = refusal(cls, json.dumps(needed | fields).encode())
        assert refused is None or refused.status == 400


def test_fields_that_change_nothing_are_dropped() -> None:
    body = chat(
        user="me", metadata={"a": "b"}, store=True, n=None, presence_penalty=0.0, response_format={"type": "text"}, logit_bias={}
    )
    assert body == chat()


def test_defaults_are_openai_s() -> None:
    body = chat()
    assert (body.num_choices, body.stops, body.token_limit, body.num_logprobs, body.wants_usage) == (1, (), None, None, False)
    assert complete().token_limit == 16


def test_choices_of_the_client() -> None:
    assert chat(stop="a").stops == ("a",)
    assert chat(stop=["a", "b"]).stops == ("a", "b")
    assert chat(max_tokens=5).token_limit == 5
    assert chat(max_tokens=5, max_completion_tokens=7).token_limit == 7
    assert chat(logprobs=True).num_logprobs == 0
    assert chat(logprobs=True, top_logprobs=3).num_logprobs == 3
    assert chat(stream=True, stream_options={"include_usage": True}).wants_usage


def test_messages_become_ours() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    body = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+1"}], "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": [], "audio": None},
            {"role": "tool", "content": "2", "tool_call_id": "c1"},
        ]
    )
    assert body.conversation() == [
        Message(role="system", content="Be brief."),
        Message(role="user", content="1+1", name="ann"),
        Message(role="assistant", tool_calls=[ToolCall(id="c1", name="add", arguments={"a": 1})]),
        Message(role="tool", content="2", tool_call_id="c1"),
    ]


@pytest.mark.parametrize("arguments", ["{", "[1]", "5"])
def test_tool_arguments_have_to_be_an_object(arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    with pytest.raises(ApiError, match="arguments of add"):
        chat(messages=[{"role": "assistant", "tool_calls": [call]}]).conversation()


def test_tools_become_ours_unless_they_are_switched_off() -> None:
    assert chat(tools=[TOOL]).offered_tools() == [ToolSpec(name="add", description="Adds.", parameters={"type": "object"})]
    assert chat(tools=[TOOL], tool_choice="none").offered_tools() == []
    bare = chat(tools=[{"type": "function", "function": {"name": "now"}}]).offered_tools()
    assert bare == [ToolSpec(name="now")]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), ("", [""]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_the_four_kinds_of_prompts(prompt: Any, prompts: list[Any]) -> None:
    assert complete(prompt=prompt).prompts() == prompts


@pytest.mark.parametrize("prompt", [None, 5, {}, [1, "a"], [1.5], [["a"]]])
def test_other_prompts_are_refused_with_the_list_of_kinds(prompt: Any) -> None:
    with pytest.raises(ApiError, match="prompt: should be a text, a list of texts"):
        complete(prompt=prompt)


def test_completion_limits() -> None:
    with pytest.raises(ApiError, match="needs echo"):
        complete(max_tokens=0)
    assert complete(max_tokens=0, echo=True).token_limit == 0
    with pytest.raises(ApiError, match="empty list"):
        complete(prompt=[])
    with pytest.raises(ApiError, match="at most"):
        complete(prompt=["a"] * 33, n=2)
    with pytest.raises(ApiError, match="not supported"):
        complete(suffix="end")
