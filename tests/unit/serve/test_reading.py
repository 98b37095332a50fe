"""A growing reply, taken apart: what is said, which calls begin, and what is written of their arguments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.formats.messages import ToolSpec
from lianlu.serve.reading import Opened, Piece, Reader, Said, Written, read_whole
from lianlu.serve.wire_chat import ToolUse
from lianlu.tokenizer import tool_calls

TOOLS = (ToolSpec(name="add"), ToolSpec(name="sub"))


class Parser:
    """The real reading of tool calls, without a vocabulary."""

    parse = staticmethod(tool_calls.parse)
    visible = staticmethod(tool_calls.visible)


def reader(sure: bool = True, tools: tuple[ToolSpec, ...] = TOOLS, parallel: bool = True) -> Reader:
    return Reader(Parser(), ToolUse(tools, "auto" if tools else "none", parallel), sure)  # type: ignore[arg-type]


def told(pieces: list[Piece]) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls (name, arguments) that pieces come to; their order and numbers are checked."""
    said, calls = "", list[tuple[str, str]]()
    for piece in pieces:
        if isinstance(piece, Said):
            said += piece.text
        elif isinstance(piece, Opened):
            assert piece.number == len(calls)
            assert piece.id.startswith("call_")
            calls.append((piece.name, ""))
        else:
            assert piece.number == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.text)
    return said, calls


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments":  {arguments} }}\n</tool_call>'


def internlm(name: str, arguments: str) -> str:
    return f'<|action_start|><|plugin|>\n{{"name": {json.dumps(name)}, "parameters": {arguments}}}<|action_end|>'


json_objects = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab"\\{}[]\n</tool_call>')),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)
called = st.tuples(st.sampled_from(["add", 'a"b', "sub"]), json_objects, st.sampled_from([hermes, internlm]))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["", "Let me see.", "a < b "]), st.lists(called, max_size=3), st.data())
def test_well_formed_calls_are_read_whatever_the_cuts(text: str, calls: list[Any], data: st.DataObject) -> None:
    """The same for any way in which the text comes, and as the forgiving reading of the whole has it."""
    whole = text + "\n".join(shape(name, json.dumps(arguments)) for name, arguments, shape in calls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    for sure in (True, False):
        read = reader(sure)
        pieces = [piece for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) for piece in read.feed(whole[a:b])]
        said, found = told([*pieces, *read.end()])
        assert said.strip() == text.strip()
        assert [(name, json.loads(arguments)) for name, arguments in found] == [call[:2] for call in calls]
        assert all(arguments.startswith("{") and arguments.endswith("}") for _, arguments in found)
        assert read.num_calls == len(calls)
        assert not read.is_open


def test_arguments_are_given_out_while_they_are_written() -> None:
    read = reader()
    assert read.feed('<tool_call>\n{"name": "ad') == []
    (opened,) = read.feed('d", "arguments": ')
    assert isinstance(opened, Opened)
    assert opened.name == "add"
    assert read.feed('{"a": ') == [Written(0, '{"a": ')]
    assert read.is_open
    assert read.feed('"}\\') == [Written(0, '"}\\')]
    assert read.feed('"}"}') == [Written(0, '"}"}')]
    assert not read.is_open
    assert read.feed("}\n</tool_call>") == []
    assert read.end() == []


@pytest.mark.parametrize("value", ["null", "5", '"x}"', "[1, {}]"])
def test_arguments_of_any_kind_end(value: str) -> None:
    assert read_whole(reader(), hermes("add", value) + hermes("sub", "{}"))[1][0].arguments.strip() == value


def test_without_a_grammar_calls_come_at_the_end() -> None:
    read = reader(sure=False)
    assert read.feed("Well. " + hermes("add", "{}")) == [Said("Well.")]
    assert told(read.end()) == ("", [("add", "{}")])


def test_what_is_no_call_is_said() -> None:
    for sure in (True, False):
        assert read_whole(reader(sure), "<tool_call> not JSON </tool_call>") == ("<tool_call> not JSON </tool_call>", [])
        assert read_whole(reader(sure), '{"a": 1}') == ('{"a": 1}', [])
        assert read_whole(reader(sure), "a <tool_") == ("a <tool_", [])


def test_a_call_without_tags_is_a_call() -> None:
    for sure in (True, False):
        said, calls = read_whole(reader(sure), '{"name": "add", "arguments": {"a": 1}}')
        assert (said, [(call.name, call.arguments) for call in calls]) == ("", [("add", '{"a": 1}')])


def test_one_call_where_one_is_asked_for() -> None:
    text = hermes("add", "{}") + hermes("sub", "{}")
    for sure in (True, False):
        assert [call.name for call in read_whole(reader(sure, parallel=False), text)[1]] == ["add"]


def test_under_a_grammar_a_call_without_tags_is_given_out_while_it_is_written() -> None:
    read = reader()
    assert read.feed(' {"name": "su') == []
    assert told(read.feed('b", "parameters": {"a')) == ("", [("sub", '{"a')])
    assert told([Opened(0, "call_", "sub"), *read.feed('": 1}}'), *read.end()]) == ("", [("sub", '": 1}')])
    assert read_whole(reader(), '{"name": "mul", "parameters": {}}')[0] == '{"name": "mul", "parameters": {}}'


def test_without_tools_everything_is_said() -> None:
    read = reader(tools=())
    assert read.feed(hermes("add", "{}")) == [Said(hermes("add", "{}"))]
    assert read.feed("") == []
    assert read.end() == []


@given(st.lists(st.text(st.sampled_from('<tol_ca>{}"\\:, nameruts1/|'), max_size=10), max_size=8), st.booleans())
def test_nothing_breaks_a_reader(texts: list[str], sure: bool) -> None:
    read = reader(sure)
    told([piece for text in texts for piece in read.feed(text)] + read.end())
