"""The events of a response: the same items however the text comes, and written as they would be in full."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Event
from lianlu.formats.messages import ToolSpec
from lianlu.serve.reading import Reader
from lianlu.serve.response_events import EventWriter, Narrator
from lianlu.serve.wire_chat import ToolUse
from lianlu.tokenizer import tool_calls

CALL = '<tool_call>{"name": "add", "arguments": {"a": [1, "}"]}}</tool_call>'


class Parser:
    """The real reading of tool calls, without a vocabulary."""

    parse = staticmethod(tool_calls.parse)
    visible = staticmethod(tool_calls.visible)


def narrator(sure: bool = True, wants_logprobs: bool = False) -> Narrator:
    use = ToolUse((ToolSpec(name="add"),), "auto")
    return Narrator(Reader(Parser(), use, sure), wants_logprobs)  # type: ignore[arg-type]


def told(texts: list[str], sure: bool = True) -> tuple[Narrator, list[dict[str, Any]]]:
    teller = narrator(sure)
    events = [*(Event(0, text=text) for text in texts), Event(0, finish_reason="stop")]
    return teller, [item for event in events for item in teller.feed(event)]


def plain(items: list[dict[str, Any]]) -> list[Any]:
    """Items without what is new each time."""
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in items]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=6), st.integers(0, 2), st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_the_items_are_the_same_however_the_text_comes(text: str, num_calls: int, cuts: list[int], sure: bool) -> None:
    whole = text + CALL * num_calls
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    once, _ = told([whole], sure)
    often, events = told([whole[a:b] for a, b in pairwise(places)], sure)
    assert plain(often.items) == plain(once.items)
    assert (often.text, len(often.calls)) == (once.text, num_calls)
    open_items = set()
    for event in events:
        kind, index = event["type"].removeprefix("response."), event["output_index"]
        if kind == "output_item.added":
            assert not open_items
            open_items.add(index)
        assert open_items == {index}
        if kind == "output_item.done":
            open_items.clear()
    assert not open_items
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == often.items


def test_log_probabilities_wait_for_the_text_they_belong_to() -> None:
    teller = narrator(wants_logprobs=True)
    first, second = TokenLogprob("<", -1.0), TokenLogprob("b", -2.0)
    assert list(teller.feed(Event(0, text="<", logprobs=(first,)))) == []
    told = list(teller.feed(Event(0, text="b", logprobs=(second,), finish_reason="stop")))
    (delta,) = [event for event in told if event["type"] == "response.output_text.delta"]
    assert [entry["token"] for entry in delta["logprobs"]] == ["<", "b"]


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4))
def test_events_are_written_as_they_are_and_numbered(texts: list[str]) -> None:
    _, events = told(texts)
    writer = EventWriter()
    for number, event in enumerate(events):
        name, data = writer.write(event).decode("utf-8").rstrip("\n").split("\n")
        assert name == f"event: {event['type']}"
        written = json.loads(data.removeprefix("data: "))
        expected = json.loads(json.dumps(event).encode().decode("utf-8", "replace")) | {"sequence_number": number}
        assert written == expected
