"""Tool calls out of the text of a reply, and what of a partial reply may be shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.formats.messages import ToolSpec
from lianlu.tokenizer.tool_calls import parse, visible

TOOLS = [ToolSpec(name="add"), ToolSpec(name="python")]
ADD = '{"name": "add", "arguments": {"a": 1}}'


def calls(text: str, tools: list[ToolSpec] = TOOLS) -> list[tuple[str, str, dict]]:
    return [(call.id, call.name, call.arguments) for call in parse(text, tools).tool_calls]


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>\n{ADD}\n</tool_call>",
        f"<tool_call>{ADD}",
        f"<tool_call>[{ADD}]</tool_call>",
        '<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
        '<tool_call>{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}</tool_call>',
        '<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 1}}<|action_end|>',
        '<|action_start|> <|plugin|> {"name": "add", "parameters": {"a": 1}}',
        f"  {ADD}\n",
    ],
)
def test_one_call_however_it_is_written(text: str) -> None:
    message = parse(text, TOOLS)
    assert message.role == "assistant"
    assert message.content == ""
    assert calls(text) == [("call_0", "add", {"a": 1})]


def test_text_around_calls_is_content() -> None:
    message = parse(f"Let me add.\n<tool_call>\n{ADD}\n</tool_call>\n<tool_call>{ADD}</tool_call>", TOOLS)
    assert message.content == "Let me add."
    assert [call.id for call in message.tool_calls] == ["call_0", "call_1"]


def test_several_calls_in_one_tag() -> None:
    assert len(calls(f"<tool_call>\n{ADD}\n{ADD}\n</tool_call>")) == 2
    assert len(calls(f"<tool_call>[{ADD}, {ADD}]</tool_call>")) == 2
    assert len(calls(f"<tool_call>{ADD}<tool_call>{ADD}")) == 2


def test_a_tag_inside_a_string_is_a_string() -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": "</tool_call> \n <tool_call>"}}</tool_call>'
    assert calls(text) == [("call_0", "add", {"a": "</tool_call> \n <tool_call>"})]


def test_code_for_the_interpreter() -> None:
    text = "I compute.<|action_start|><|interpreter|>\n```python\nprint(1)\nprint(2)\n```<|action_end|>"
    assert calls(text) == [("call_0", "python", {"code": "print(1)\nprint(2)"})]
    assert parse(text, TOOLS).content == "I compute."


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "add", "arguments": {"a": }</tool_call>',
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        f"<tool_call>{ADD}}}</tool_call>",
        f"<tool_call>[{ADD}, 3]</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>",
        "<tool_call>" + "[" * 100_000,
        "<|action_start|><|interpreter|>\nprint(1)<|action_end|>",
        "<|action_start|><|other|>{}<|action_end|>",
        "plain { text }",
        '{"name": "unknown", "arguments": {}}',
        '{"name": "add", "arguments": {}} and more',
        "  spaces stay  ",
        "",
    ],
)
def test_what_is_no_call_stays_in_the_content(text: str) -> None:
    message = parse(text, TOOLS)
    assert message.content == text
    assert not message.tool_calls


def test_a_broken_call_beside_a_good_one_is_kept() -> None:
    text = f"A <tool_call>broken</tool_call> B <tool_call>{ADD}</tool_call> C"
    message = parse(text, TOOLS)
    assert message.content == "A <tool_call>broken</tool_call> B  C"
    assert len(message.tool_calls) == 1


def test_bare_json_is_a_call_only_with_tools() -> None:
    assert parse(ADD).content == ADD
    assert not parse(ADD).tool_calls


def test_missing_arguments_are_none() -> None:
    assert calls('<tool_call>{"name": "add"}</tool_call>') == [("call_0", "add", {})]
    assert calls('<tool_call>{"name": "add", "arguments": null}</tool_call>') == [("call_0", "add", {})]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hello", "Hello"),
        ("Hello ", "Hello"),
        ("Hello <", "Hello"),
        ("Hello <tool_ca", "Hello"),
        ("Hello <tool_call>{", "Hello"),
        ("a < b", "a < b"),
        ("Hi<|action_sta", "Hi"),
        ("", ""),
    ],
)
def test_what_may_be_shown(text: str, shown: str) -> None:
    assert visible(text, TOOLS) == shown


def test_a_reply_that_may_be_bare_json_is_held_back() -> None:
    assert visible('{"name"', TOOLS) == ""
    assert visible('{"name"') == '{"name"'


PIECES = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<|action_start|>",
        "<|plugin|>",
        "<|action_end|>",
        ADD,
        "{",
        "}",
        " ",
        "\n",
        "text",
        "<",
        "你",
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_was_shown_is_the_beginning_of_the_content(text: str, has_tools: bool) -> None:
    tools = TOOLS if has_tools else []
    content = parse(text, tools).content
    shown = ""
    for end in range(len(text) + 1):
        more = visible(text[:end], tools)
        assert more.startswith(shown)
        assert content.startswith(more)
        shown = more


@given(
    st.text().filter(lambda text: "<" not in text and not text.lstrip().startswith("{")),
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5), max_size=3),
)
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read_again(content: str, arguments: dict) -> None:
    text = content + "<tool_call>\n" + json.dumps({"name": "add", "arguments": arguments}, ensure_ascii=False) + "\n</tool_call>"
    message = parse(text, TOOLS)
    assert message.content == content.rstrip()
    assert message.tool_calls[0].arguments == arguments
