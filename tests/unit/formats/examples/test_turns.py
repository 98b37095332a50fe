"""Turns in the many ways they are written down, as messages."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.formats.examples.record import RecordError
from lianlu.formats.examples.turns import ROLES, UNTRAINED, conversation, read_tools, read_turns
from lianlu.formats.messages import Message, ToolCall, ToolSpec

ASK = {"role": "user", "content": "q"}
SAY = {"role": "assistant", "content": "a"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def messages(*turns: Any) -> list[Message]:
    return read_turns(list(turns))[0]


def reason(*turns: Any) -> str:
    with pytest.raises(RecordError) as caught:
        conversation("x", list(turns))
    return caught.value.reason


@pytest.mark.parametrize("name", list(ROLES))
def test_every_known_speaker(name: str) -> None:
    content = '{"name": "f", "arguments": {}}'
    for turn in (
        {"from": name, "value": content},
        {"role": f" {name.upper()}", "content": content},
        {"role": name, "text": content},
    ):
        assert messages(turn)[0].role == ROLES[name]


def test_order_and_repetition_are_left_as_they_are() -> None:
    found = messages(ASK, ASK, SAY, SAY, {"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, SAY)
    assert [message.role for message in found] == ["user", "user", "assistant", "assistant", "system", "system", "assistant"]


def test_contents_may_be_parts_numbers_and_nothing() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}, {"type": "refusal", "refusal": "d"}]
    found = messages({"role": "user", "content": parts}, {"role": "user", "content": 4.5}, {"role": "tool", "content": None})
    assert [message.content for message in found] == ["abcd", "4.5", ""]


def test_an_image_is_no_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "http://x"}}
    with pytest.raises(RecordError) as caught:
        read_turns([{"role": "user", "content": [{"type": "text", "text": "a"}, picture]}])
    assert caught.value.message == "the content of a turn has a part that is not text: turn 1: image_url"


def test_calls_of_openai_old_and_new_and_of_lianlu() -> None:
    wanted = [ToolCall(id="c1", name="add", arguments={"a": 1})]
    flat = {"id": "c1", "name": "add", "arguments": {"a": 1}}
    assert messages({"role": "assistant", "content": None, "tool_calls": [CALL]})[0].tool_calls == wanted
    assert messages({"role": "assistant", "tool_calls": [flat]})[0].tool_calls == wanted
    old = messages({"role": "assistant", "function_call": {"name": "add", "arguments": '{"a": 1}'}})[0].tool_calls
    assert old == [ToolCall(id="call_0", name="add", arguments={"a": 1})]
    for nothing in ("", "{}", {}, None):
        call = {"function": {"name": "now", "arguments": nothing}}
        assert messages({"role": "assistant", "tool_calls": [call]})[0].tool_calls[0].arguments == {}


def test_calls_that_are_turns_and_their_answers() -> None:
    found = messages(
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "Let me see."},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "function_call", "value": {"name": "mul", "arguments": '{"b": 2}'}},
        {"from": "observation", "value": "3"},
        {"from": "tool", "value": {"result": 4}},
        {"from": "gpt", "value": "done"},
        {"from": "function_call", "value": '[{"name": "x"}, {"name": "y"}]'},
        {"from": "observation", "value": "5"},
    )
    assert [message.role for message in found] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert found[1].content == "Let me see."
    assert [(call.id, call.name, call.arguments) for call in found[1].tool_calls] == [
        ("call_0", "add", {"a": 1}),
        ("call_1", "mul", {"b": 2}),
    ]
    assert [(m.content, m.tool_call_id, m.name) for m in found[2:4]] == [
        ("3", "call_0", "add"),
        ('{"result": 4}', "call_1", "mul"),
    ]
    assert [call.id for call in found[4].tool_calls] == ["call_2", "call_3"]
    assert (found[5].tool_call_id, found[5].name) == ("call_2", "x")


def test_answers_name_their_calls_themselves_if_they_do() -> None:
    calls = [{"id": "one", "name": "f"}, {"id": "two", "name": "g"}]
    answers = [{"role": "tool", "content": "2", "tool_call_id": "two"}, {"role": "tool", "content": "1", "tool_call_id": "one"}]
    found = messages({"role": "assistant", "tool_calls": calls}, *answers, ASK, {"role": "tool", "content": "late"})
    assert [(m.tool_call_id, m.name) for m in found if m.role == "tool"] == [("two", "g"), ("one", "f"), ("", "")]


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([], "no turns"),
        ([None], "a turn is not an object"),
        (["hello"], "a turn is not an object"),
        ([{"content": "x"}], "an unknown speaker"),
        ([{"role": "narrator", "content": "x"}], "an unknown speaker"),
        ([{"role": 3, "content": "x"}], "an unknown speaker"),
        ([ASK], "no turn of an assistant"),
        ([ASK, {"role": "assistant", "content": " \n"}], "an empty answer"),
        ([ASK, {"role": "assistant", "content": None}], "an empty answer"),
        ([ASK, {"role": "assistant"}], "an empty answer"),
        ([{"role": "user", "content": ""}, SAY], "an empty question"),
        ([ASK, {"role": "assistant", "content": True}], "the content of a turn is true or false, not text"),
        ([ASK, {"role": "assistant", "content": {"text": "x"}}], "the content of a turn is an object, not text"),
        ([ASK, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}], "a call without the name of a tool"),
        ([ASK, {"role": "assistant", "tool_calls": ["add"]}], "a call without the name of a tool"),
        (
            [ASK, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            "the arguments of a call cannot be read as JSON",
        ),
        (
            [ASK, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}],
            "the arguments of a call are not an object",
        ),
        ([ASK, {"from": "function_call", "value": "add(1)"}], "a call cannot be read as JSON"),
        ([ASK, {"from": "function_call", "value": None}], "a call without the name of a tool"),
    ],
)
def test_what_is_wrong_with_turns(turns: list[Any], why: str) -> None:
    assert reason(*turns) == why


@pytest.mark.parametrize("turns", [{"a": 1}, "hello", 3, None])
def test_turns_have_to_be_a_list(turns: Any) -> None:
    with pytest.raises(RecordError, match="not a list"):
        conversation("x", turns)


def test_which_turn_is_wrong() -> None:
    with pytest.raises(RecordError) as caught:
        conversation("x", [ASK, SAY, {"role": "narrator", "content": "x"}])
    assert caught.value.detail.startswith('turn 3: "narrator", not one of system, developer')


def test_a_system_text_of_the_record_comes_first_unless_there_is_one() -> None:
    assert [m.content for m in conversation("x", [ASK, SAY], system="s").messages] == ["s", "q", "a"]
    assert [m.content for m in conversation("x", [ASK, SAY], system=" ").messages] == ["q", "a"]
    own = conversation("x", [{"role": "system", "content": "mine"}, ASK, SAY], system="s")
    assert [m.content for m in own.messages] == ["mine", "q", "a"]


def test_messages_of_weight_zero_are_noted_where_they_end_up() -> None:
    turns = [ASK, {**SAY, "weight": 0}, ASK, {**SAY, "weight": 1}, ASK, {**SAY, "weight": 0.0}]
    assert conversation("x", turns).meta == {UNTRAINED: [1, 5]}
    assert conversation("x", turns, system="s").meta == {UNTRAINED: [2, 6]}
    assert conversation("x", [{**ASK, "weight": 0}, SAY]).meta == {}


SPEC = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}


@pytest.mark.parametrize(
    "tools",
    [
        [SPEC],
        SPEC,
        [{"type": "function", "function": {**SPEC, "strict": True}}],
        json.dumps([SPEC]),
        json.dumps(SPEC),
        [{**SPEC, "parameters": json.dumps(SPEC["parameters"])}],
    ],
)
def test_tools_in_their_shapes(tools: Any) -> None:
    assert read_tools(tools) == [ToolSpec.model_validate(SPEC)]


@pytest.mark.parametrize("tools", [None, "", "  ", [], "[]", {}, "null"])
def test_no_tools(tools: Any) -> None:
    assert read_tools(tools) == []


def test_a_tool_may_be_a_name_only() -> None:
    assert read_tools([{"name": "now", "description": None, "parameters": None}]) == [ToolSpec(name="now")]


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ("[{", "the tools cannot be read as JSON"),
        (["add"], "a tool without a name"),
        ([{"description": "x"}], "a tool without a name"),
        ([{"name": "x", "parameters": [1]}], "the parameters of a tool are not an object"),
        (3, "a tool without a name"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_tools(tools: Any, why: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_tools(tools)
    assert caught.value.reason == why


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SPEAKERS = st.sampled_from([*ROLES, "narrator"]) | JSON
TURN = st.fixed_dictionaries(
    {},
    optional={
        "from": SPEAKERS,
        "role": SPEAKERS,
        "value": JSON,
        "content": JSON | st.text(),
        "weight": JSON,
        "tool_calls": st.lists(
            st.fixed_dictionaries({}, optional={"name": JSON, "function": JSON, "arguments": JSON, "id": JSON})
        )
        | JSON,
        "function_call": JSON,
        "tool_call_id": JSON,
        "name": JSON,
    },
)


@given(turns=st.lists(TURN | JSON, max_size=5) | JSON, tools=JSON, system=JSON)
def test_anything_is_a_conversation_or_a_reason(turns: Any, tools: Any, system: Any) -> None:
    with contextlib.suppress(RecordError):
        found = conversation("x", turns, tools, system)
        assert any(message.role == "assistant" for message in found.messages)
