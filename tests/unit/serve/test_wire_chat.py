"""Bodies of chat completions: messages, tools, and which tool may, must or must not be called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.formats.messages import Message, ToolCall, ToolSpec
from lianlu.serve.failures import ApiError
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_chat import ChatBody, ToolUse

USER = [{"role": "user", "content": "hi"}]
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
SUB = {"type": "function", "function": {"name": "sub", "strict": True}}


def chat(**fields: Any) -> ChatBody:
    return parse_body(ChatBody, json.dumps({"model": "m", "messages": USER} | fields).encode())


def named(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: Any, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


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


def test_tools_become_ours() -> None:
    use = chat(tools=[ADD, SUB]).tool_use()
    assert use.tools == (
        ToolSpec(name="add", description="Adds.", parameters={"type": "object"}),
        ToolSpec(name="sub", parameters={"type": "object", "properties": {}}),
    )
    assert (use.mode, use.parallel, use.shown) == ("auto", True, use.tools)
    assert not chat(tools=[ADD], parallel_tool_calls=False).tool_use().parallel


@pytest.mark.parametrize(
    ("choice", "names", "mode"),
    [
        (None, ["add", "sub"], "auto"),
        ("auto", ["add", "sub"], "auto"),
        ("none", [], "none"),
        ("required", ["add", "sub"], "required"),
        (named("sub"), ["sub"], "required"),
        (allowed("auto", "add"), ["add"], "auto"),
        (allowed("required", "sub", "add"), ["add", "sub"], "required"),
    ],
)
def test_the_choice_of_tools(choice: Any, names: list[str], mode: str) -> None:
    use = chat(tools=[ADD, SUB], tool_choice=choice).tool_use()
    assert ([tool.name for tool in use.tools], use.mode) == (names, mode)


def test_no_tools_are_no_tools_whatever_the_choice() -> None:
    for choice in (None, "auto", "none"):
        assert chat(tool_choice=choice).tool_use() == ToolUse()
        assert chat(tools=[], tool_choice=choice).tool_use() == ToolUse()


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ({"tool_choice": "required"}, "there are no tools", "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "there are no tools", "tool_choice"),
        ({"tool_choice": named("add")}, "there are no tools", "tool_choice"),
        ({"tools": [ADD], "tool_choice": named("sub")}, "names 'sub', which is not offered", "tool_choice"),
        ({"tools": [ADD], "tool_choice": allowed("auto", "add", "mul")}, "names 'mul'", "tool_choice"),
        ({"tools": [ADD], "tool_choice": "any"}, "cannot be 'any'", "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function"}}, "cannot be", "tool_choice"),
        ({"tools": [ADD], "tool_choice": named(5)}, "cannot be", "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "name": "add"}}, "cannot be", "tool_choice"),
        ({"tools": [ADD], "tool_choice": allowed("none", "add")}, "cannot be", "tool_choice"),
        ({"tools": [ADD], "tool_choice": allowed("auto")}, "cannot be", "tool_choice"),
        ({"tools": [ADD], "tool_choice": 5}, "tool_choice: should be", "tool_choice"),
        ({"tools": [ADD, ADD]}, "two tools are called 'add'", "tools"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0", "tools"),
        ({"tools": [ADD], "response_format": {"type": "json_object"}}, "while tools are offered", "tools"),
        ({"tools": [ADD], "guided_regex": "a"}, "while tools are offered", "tools"),
    ],
)
def test_choices_that_make_no_sense(fields: dict[str, Any], said: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert said in caught.value.message
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_a_form_and_tools_that_are_switched_off_go_together() -> None:
    body = chat(tools=[ADD], tool_choice="none", response_format={"type": "json_object"})
    assert body.rule() is not None
    assert chat(tools=[], response_format={"type": "json_object"}).tool_use() == ToolUse()


names = st.sampled_from(["add", "sub", "", "mul", 5, None])
json_values = st.recursive(
    names,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "function", "name", "tools", "mode", "allowed_tools"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(json_values)
def test_any_choice_is_a_choice_or_an_error_that_names_it(choice: Any) -> None:
    error, use = None, ToolUse()
    try:
        use = chat(tools=[ADD, SUB], tool_choice=choice).tool_use()
    except ApiError as caught:
        error = caught
    assert error is None or error.param == "tool_choice"
    assert {tool.name for tool in use.tools} <= {"add", "sub"}
