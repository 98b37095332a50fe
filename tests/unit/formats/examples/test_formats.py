"""Each format: what it takes for a conversation, what it passes over, and what it says about a wrong record."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.formats.documents import Document
from lianlu.formats.examples.pairs import PAIRS
from lianlu.formats.examples.recognise import FORMATS, formats_of
from lianlu.formats.examples.record import RecordError
from lianlu.formats.messages import Conversation

ASK, SAY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


def said(format_name: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    item = FORMATS[format_name].convert(record, "x")
    assert isinstance(item, Conversation)
    return [(message.role, message.content) for message in item.messages]


def reason(format_name: str, record: Mapping[str, Any]) -> str:
    with pytest.raises(RecordError) as caught:
        FORMATS[format_name].convert(record, "x")
    return caught.value.reason


QA = [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("name", "record", "wanted"),
    [
        ("alpaca", {"instruction": "q", "input": "", "output": "a", "text": "whole"}, QA),
        ("alpaca", {"instruction": "q", "output": "a"}, QA),
        ("alpaca", {"instruction": "q", "input": "i", "output": 4}, [("user", "q\ni"), ("assistant", "4")]),
        ("alpaca", {"instruction": "", "input": "i", "output": "a"}, [("user", "i"), ("assistant", "a")]),
        (
            "alpaca",
            {"instruction": "q", "context": "c", "response": "a", "category": "z"},
            [("user", "q\nc"), ("assistant", "a")],
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"], ("q1", 1)]},
            [("system", "s"), ("user", "q0"), ("assistant", "a0"), ("user", "q1"), ("assistant", "1"), *QA],
        ),
        ("sharegpt", {"conversations": [HUMAN, GPT], "id": "i", "tools": "[]", "system": ""}, QA),
        ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT], "system": "t"}, [("system", "s"), *QA]),
        ("sharegpt", {"messages": [HUMAN, GPT]}, QA),
        ("openai", {"messages": [ASK, SAY], "prompt": "q", "source": "z"}, QA),
        ("openai", {"conversations": [ASK, SAY]}, QA),
        ("openai", {"messages": [ASK, SAY], "label": True}, QA),
        ("openai", {"messages": [ASK, SAY], "system_prompt": "s"}, [("system", "s"), *QA]),
        ("xtuner", {"conversation": [{"system": "s", "input": "q", "output": "a"}]}, [("system", "s"), *QA]),
        ("xtuner", {"conversation": [{"input": "q", "output": "a"}, {"output": "b"}]}, [*QA, ("assistant", "b")]),
        ("pairs", {"question": "q", "answer": "a"}, QA),
        ("pairs", {"question": "q", "response": "a", "system_prompt": "s", "id": "x"}, [("system", "s"), *QA]),
        ("pairs", {"prompt": "q", "completion": "a", "label": True}, QA),
        ("pairs", {"prompt": [ASK], "completion": [SAY]}, QA),
        ("pairs", {"input": "q", "output": 7}, [("user", "q"), ("assistant", "7")]),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, QA),
        ("preference", {"prompt": "q", "chosen": [ASK, SAY], "rejected": [ASK, SAY]}, QA),
        ("preference", {"prompt": [ASK], "chosen": [SAY], "rejected": [SAY]}, QA),
        ("preference", {"chosen": [ASK, SAY], "rejected": [ASK, SAY]}, QA),
        ("preference", {"conversations": [HUMAN], "chosen": GPT, "rejected": GPT}, QA),
        (
            "preference",
            {"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"},
            [("user", "q\ni"), ("assistant", "a")],
        ),
        (
            "preference",
            {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: b", "rejected": ""},
            [*QA, ("user", "r"), ("assistant", "b")],
        ),
        ("conversations", {"messages": [ASK, SAY]}, QA),
    ],
)
def test_what_is_said(name: str, record: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    assert said(name, record) == wanted
    assert formats_of(record) == ((name,) if name != "conversations" else ("openai",))


@pytest.mark.parametrize(("question", "answer"), PAIRS)
def test_every_pair_of_names(question: str, answer: str) -> None:
    record = {question: "q", answer: "a", "level": 3, "id": "n"}
    assert said("pairs", record) == QA
    assert formats_of(record) == ("pairs",)


@pytest.mark.parametrize(
    ("name", "record", "why"),
    [
        ("alpaca", {"input": "i"}, "no output"),
        ("alpaca", {"output": "a"}, "no instruction"),
        ("alpaca", {"instruction": "q"}, "no output"),
        ("alpaca", {"instruction": "q", "output": ""}, "an empty answer"),
        ("alpaca", {"instruction": "", "input": "", "output": "a"}, "an empty question"),
        ("alpaca", {"instruction": ["q"], "output": "a"}, "the instruction is a list, not text"),
        ("alpaca", {"instruction": "q", "output": "a", "history": "h"}, "the history is not a list of pairs"),
        ("alpaca", {"instruction": "q", "output": "a", "history": [["h"]]}, "the history is not a list of pairs"),
        ("alpaca", {"instruction": "q", "output": "a", "history": 3}, "the history is not a list of pairs"),
        ("sharegpt", {"conversations": []}, "no turns"),
        ("sharegpt", {"text": "x"}, "no conversations"),
        ("sharegpt", {"conversations": "x"}, "the turns are text, not a list"),
        ("openai", {"text": "x"}, "no messages"),
        ("openai", {"messages": [ASK, SAY], "label": False}, "its label is false: an answer that was not wanted"),
        ("xtuner", {"conversation": [["q", "a"]]}, "a turn is not an object"),
        ("xtuner", {"conversation": "x"}, "the conversation is text, not a list"),
        ("xtuner", {"conversation": []}, "no turns"),
        ("xtuner", {}, "no conversation"),
        ("pairs", {"question": "q"}, "no pair of " + " or ".join("/".join(pair) for pair in PAIRS)),
        (
            "pairs",
            {"question": "q", "answer": "a", "input": "q", "output": "a"},
            "more than one pair (question/answer or input/output)",
        ),
        ("pairs", {"prompt": "q", "completion": "a", "label": False}, "its label is false: an answer that was not wanted"),
        ("preference", {"chosen": "a", "rejected": "b"}, "no prompt"),
        ("preference", {"prompt": "q", "rejected": "b"}, "no chosen answer"),
        ("text", {"title": "x"}, "no text or content"),
        ("text", {"text": " \n"}, "an empty text"),
        ("text", {"text": ["x"]}, "the text is a list, not text"),
        ("conversations", {"messages": [ASK, SAY], "mesages": 1}, "not a conversation of lianlu"),
        ("conversations", {"messages": [ASK]}, "no turn of an assistant"),
    ],
)
def test_what_is_wrong(name: str, record: dict[str, Any], why: str) -> None:
    assert reason(name, record) == why


def test_only_unwanted_answers_are_not_wrong() -> None:
    with pytest.raises(RecordError) as caught:
        FORMATS["openai"].convert({"messages": [ASK, SAY], "label": False}, "x")
    assert not caught.value.is_wrong


def test_documents() -> None:
    assert FORMATS["text"].convert({"text": "t", "title": "x"}, "n") == Document(id="n", text="t")
    assert FORMATS["text"].convert({"content": "t", "id": 5}, "n") == Document(id="5", text="t")


def test_tools_come_along() -> None:
    tools = '[{"name": "add", "description": "Adds."}]'
    for name, record in (
        ("sharegpt", {"conversations": [HUMAN, GPT]}),
        ("openai", {"messages": [ASK, SAY]}),
        ("alpaca", {"instruction": "q", "output": "a"}),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}),
    ):
        item = FORMATS[name].convert({**record, "tools": tools}, "x")
        assert isinstance(item, Conversation)
        assert [tool.name for tool in item.tools] == ["add"]


FIELDS = ["instruction", "input", "output", "response", "history", "system", "tools", "text", "content", "id", "label", "meta"]
OTHERS = ["conversations", "conversation", "messages", "question", "answer", "prompt", "completion", "chosen", "rejected"]
KEYS = st.sampled_from([*FIELDS, *OTHERS])
TURNS = st.lists(st.sampled_from([ASK, SAY, HUMAN, GPT, {"input": "q", "output": "a"}, {}, {"role": "x"}]), max_size=3)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | TURNS
    | st.dictionaries(KEYS, st.text(max_size=3))
)


@given(record=st.dictionaries(KEYS, VALUES, max_size=6), name=st.sampled_from(list(FORMATS)))
def test_any_record_is_an_example_or_a_reason_in_any_format(record: dict[str, Any], name: str) -> None:
    record = {key: value for key, value in record.items() if value is not None}
    assert all(found in FORMATS for found in formats_of(record))
    with contextlib.suppress(RecordError):
        item = FORMATS[name].convert(record, "x")
        assert isinstance(item, Document if name == "text" else Conversation)
