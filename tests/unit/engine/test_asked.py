"""Conversations, prompts and tools as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from lianlu.core.errors import RequestError
from lianlu.engine.asked import as_messages, as_tools, conversations_in, prompts_in
from lianlu.formats.messages import Message, ToolCall, ToolSpec, to_openai

USER = {"role": "user", "content": "hi"}
CALLING = Message(role="assistant", tool_calls=[ToolCall(id="1", name="add", arguments={"a": 1})])


def test_one_or_many() -> None:
    assert conversations_in([USER]) == (True, [[USER]])
    assert conversations_in([[USER], [USER, USER]]) == (False, [[USER], [USER, USER]])
    assert conversations_in([]) == (False, [])
    assert prompts_in("ab") == (True, ["ab"])
    assert prompts_in([1, 2]) == (True, [[1, 2]])
    assert prompts_in(["a", "b"]) == (False, ["a", "b"])
    assert prompts_in([[1], "b"]) == (False, [[1], "b"])
    assert prompts_in([]) == (False, [])


def test_a_bare_text_is_no_conversation() -> None:
    with pytest.raises(RequestError, match="no conversation") as caught:
        conversations_in("hello")
    assert "generate" in caught.value.hint


@pytest.mark.parametrize(
    "turn",
    [
        CALLING,
        to_openai(CALLING),
        CALLING.model_dump(),
        {"role": "assistant", "content": None, "tool_calls": to_openai(CALLING)["tool_calls"], "refusal": None},
    ],
)
def test_turns_in_every_spelling(turn: Any) -> None:
    assert as_messages([turn]) == [CALLING]


def test_parts_and_developers() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert as_messages([{"role": "developer", "content": parts}]) == [Message(role="system", content="ab")]


@pytest.mark.parametrize(
    "turns",
    [
        [],
        "hello",
        ["hello"],
        [{"content": "no role"}],
        [{"role": "king", "content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": ["loose"]}],
        [{"role": "assistant", "tool_calls": 7}],
        [{"role": "assistant", "tool_calls": [{"function": {}}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}],
        [USER, None],
    ],
)
def test_wrong_turns_are_named(turns: Any) -> None:
    with pytest.raises(RequestError) as caught:
        as_messages(turns)
    assert caught.value.hint


def test_tools_in_every_spelling() -> None:
    spec = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
    outer = {"type": "function", "function": spec.model_dump() | {"strict": True}}
    assert as_tools([spec, spec.model_dump(), outer]) == [spec] * 3
    assert as_tools([{"type": "function", "function": {"name": "now", "description": None}}]) == [ToolSpec(name="now")]


@pytest.mark.parametrize("tool", [5, {"function": "add"}, {"function": {}}, {"name": "a", "color": "red"}])
def test_wrong_tools_are_named(tool: Any) -> None:
    with pytest.raises(RequestError, match="tool 0"):
        as_tools([tool])
