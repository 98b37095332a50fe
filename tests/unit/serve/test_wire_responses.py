"""Bodies of the responses API: items become messages, and what makes no sense is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Constraint
from lianlu.formats.messages import Message, ToolCall, ToolSpec
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_responses import ResponsesBody, to_messages

ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


def respond(**fields: Any) -> ResponsesBody:
    return parse_body(ResponsesBody, json.dumps({"input": "hi"} | fields).encode())


def test_a_text_is_a_user_s_message() -> None:
    assert to_messages(respond().items()) == [Message(role="user", content="hi")]


def test_items_become_messages() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "1 + "}, {"type": "input_text", "text": "1?"}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me add.", "annotations": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a": 1}', "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "sub", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "0"}]},
        {"type": "function_call_output", "call_id": "c0", "output": "?"},
    ]
    assert to_messages(respond(input=items).items(), {"c0": "before"}) == [
        Message(role="system", content="Be brief."),
        Message(role="user", content="1 + 1?"),
        Message(
            role="assistant",
            content="Let me add.",
            tool_calls=[ToolCall(id="c1", name="add", arguments={"a": 1}), ToolCall(id="c2", name="sub")],
        ),
        Message(role="tool", content="2", tool_call_id="c1", name="add"),
        Message(role="tool", content="0", tool_call_id="c2", name="sub"),
        Message(role="tool", content="?", tool_call_id="c0", name="before"),
    ]


def test_a_call_that_follows_no_message_is_one_of_its_own() -> None:
    (message,) = to_messages([{"type": "function_call", "call_id": "c", "name": "add", "arguments": ""}])
    assert message == Message(role="assistant", tool_calls=[ToolCall(id="c", name="add")])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({}, "the role of a message cannot be None"),
        ({"role": "robot", "content": ""}, "cannot be 'robot'"),
        ({"role": ["user"], "content": ""}, "the role of a message"),
        ({"role": "user"}, "content should be a text"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            "reads text only, not content of type 'input_image'",
        ),
        ({"role": "user", "content": [5]}, "not content of type None"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "text should be a text"),
        ({"type": "item_reference", "id": "msg_1"}, "an item of type 'item_reference' cannot be read"),
        ({"type": 5}, "an item of type 5"),
        ({"type": "function_call", "name": "add", "arguments": "{}"}, "call_id should be a text"),
        ({"type": "function_call", "call_id": "c", "name": "add", "arguments": "{"}, "the arguments of add are not JSON"),
        ({"type": "function_call", "call_id": "c", "name": "add", "arguments": "[1]"}, "not a JSON object"),
        ({"type": "function_call_output", "call_id": "c"}, "output should be a text"),
    ],
)
def test_a_wrong_item_is_named(item: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError) as caught:
        to_messages([{"role": "user", "content": "hi"}, item])
    assert caught.value.message.startswith("input.1: ")
    assert said in caught.value.message
    assert (caught.value.param, caught.value.status) == ("input", 400)


keys = ["type", "role", "content", "call_id", "name", "arguments", "output"]
json_values = st.recursive(
    st.none() | st.integers() | st.sampled_from(["user", "message", "function_call", "function_call_output", "input_text", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "call_id", "name", "arguments", "output"]), inner)
    ),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(keys), json_values, max_size=5), max_size=3))
def test_any_items_are_messages_or_an_error_that_names_the_input(items: list[dict[str, Any]]) -> None:
    error = None
    try:
        to_messages(items)
    except ApiError as caught:
        error = caught
    assert error is None or (error.param == "input" and error.status == 400)


def test_tools_are_flat() -> None:
    use = respond(tools=[ADD], tool_choice={"type": "function", "name": "add"}).tool_use()
    assert (use.tools, use.mode) == ((ToolSpec(name="add", parameters={"type": "object"}),), "required")
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]}
    assert respond(tools=[ADD], tool_choice=allowed).tool_use().mode == "auto"


def test_the_form_of_the_text() -> None:
    def form(**fields: Any) -> Constraint | None:
        rule = respond(text={"format": fields}).rule()
        return None if rule is None else rule.constraint

    assert respond().rule() is respond(text={}).rule() is form(type="text") is None
    assert form(type="json_object") == Constraint("json", '{"type":"object"}')
    assert form(type="json_schema", name="n", schema={"type": "array"}, strict=True) == Constraint("json", '{"type":"array"}')


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ({"input": None}, "input is required", "input"),
        ({"input": 5}, "input: should be a text or a list of items", "input"),
        ({"input": ["hi"]}, "input", "input"),
        ({"tools": [{"type": "web_search"}]}, "a tool of type 'web_search' is not offered here", "tools"),
        ({"tools": [{"type": "function", "function": {"name": "add"}}]}, "a tool has no name", "tools"),
        ({"tool_choice": "required"}, "there are no tools", "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}}, "cannot be", "tool_choice"),
        ({"tools": [ADD], "text": {"format": {"type": "json_object"}}}, "while tools are offered", "tools"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema is required", "text"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type", "text"),
        ({"max_output_tokens": 0}, "greater than or equal to 1", "max_output_tokens"),
        ({"metadata": {"a": 5}}, "metadata.a", "metadata"),
        ({"truncation": "auto"}, "truncation", "truncation"),
        ({"background": True}, "background is not supported", "background"),
        ({"conversation": "conv_1"}, "conversation is not supported", "conversation"),
        ({"max_tokens": 5}, "did you mean max_output_tokens", "max_tokens"),
        ({"stream_options": {"include_obfuscation": False}}, "needs stream", "stream_options"),
    ],
)
def test_what_makes_no_sense_is_named(fields: dict[str, Any], said: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        respond(**fields)
    assert said in f"{caught.value.message}; {caught.value.hint}"
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    assert respond().num_logprobs is None
    assert respond(include=["reasoning.encrypted_content"]).num_logprobs is None
    assert respond(include=["message.output_text.logprobs"]).num_logprobs == 0
    assert respond(top_logprobs=3).num_logprobs == 3
