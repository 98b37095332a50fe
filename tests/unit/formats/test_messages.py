from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats.messages import (
    Conversation,
    Message,
    ToolCall,
    ToolSpec,
    from_openai,
    read_conversations,
    to_openai,
    write_conversations,
)

CALL = ToolCall(id="c0", name="python", arguments={"code": "print(1)"})
TALK = Conversation(
    id="1",
    messages=[
        Message(role="user", content="1+1?\n\u2028 \U0001f600"),
        Message(role="assistant", tool_calls=[CALL]),
        Message(role="tool", content="2", tool_call_id="c0", name="python"),
        Message(role="assistant", content="2"),
    ],
    tools=[ToolSpec(name="python")],
    meta={"symbol": "x"},
)


def test_round_trip(tmp_path: Path) -> None:
    assert write_conversations(tmp_path / "a.jsonl", [TALK, TALK]) == 2
    assert list(read_conversations(tmp_path / "a.jsonl")) == [TALK, TALK]


def test_header_is_optional_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1", "messages": [{"role": "user", "content": "hi"}]}\n\n')
    assert next(read_conversations(path)).messages[0].content == "hi"
    path.write_text('{"lianlu": "conversations", "format": 99}\n')
    with pytest.raises(DataError, match="format 99"):
        list(read_conversations(path))
    path.write_text('{"lianlu": "eval-log", "format": 1}\n')
    with pytest.raises(DataError, match="holds eval-log"):
        list(read_conversations(path))


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"id": "1"}', '{"id": "1", "messages": []}', '{"id":"1","messages":[{"role":"king"}]}']
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "0", "messages": [{"role": "user"}]}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        list(read_conversations(path))


def test_ids_are_made_up_and_the_wrong_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": [{"role": "user", "contents": "hi"}]}\n')
    found = read_conversations(path)
    assert next(found).id == "line-1"
    with pytest.raises(DataError, match=r"line 2: not a conversation: messages\.0\.contents"):
        next(found)


def test_missing_and_binary_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        list(read_conversations(tmp_path / "no.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_conversations(tmp_path / "b.jsonl"))


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.none() | st.booleans() | st.integers() | texts
messages = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant", "tool", "system"]),
    content=texts,
    tool_calls=st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=st.dictionaries(texts, json_values)), max_size=2),
)


@given(messages)
def test_openai_round_trip(message: Message) -> None:
    assert from_openai(to_openai(message)) == message


def test_openai_content_parts_and_bad_arguments() -> None:
    assert (
        from_openai({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}).content == "ab"
    )
    call = {"id": "1", "function": {"name": "f", "arguments": "[1]"}}
    with pytest.raises(DataError, match="not a JSON object"):
        from_openai({"role": "assistant", "tool_calls": [call]})
