"""The shapes of the responses API, held against the types of the official client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Event
from lianlu.formats.messages import ToolSpec
from lianlu.serve.reading import Reader
from lianlu.serve.replies import Head
from lianlu.serve.response_events import EventWriter, Narrator
from lianlu.serve.response_items import ResponseShape
from lianlu.serve.wire import parse_body
from lianlu.serve.wire_chat import ToolUse
from lianlu.serve.wire_responses import ResponsesBody
from lianlu.tokenizer import tool_calls

TEXT = 'Well.<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
FULL: dict[str, Any] = {
    "input": "hi",
    "instructions": "Be brief.",
    "metadata": {"a": "b"},
    "tools": [{"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "name": "add"},
    "top_logprobs": 2,
    "previous_response_id": "resp_0",
    "max_output_tokens": 9,
}
SCHEMA = {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"}}


class Parser:
    """The real reading of tool calls, without a vocabulary."""

    parse = staticmethod(tool_calls.parse)
    visible = staticmethod(tool_calls.visible)


def narrator() -> Narrator:
    return Narrator(Reader(Parser(), ToolUse((ToolSpec(name="add"),), "auto"), True), True)  # type: ignore[arg-type]


def shape(**fields: Any) -> ResponseShape:
    return ResponseShape(Head.response().named("tiny"), parse_body(ResponsesBody, json.dumps({"input": "hi"} | fields).encode()))


@pytest.mark.parametrize("fields", [{}, FULL, SCHEMA, {"text": {"format": {"type": "json_object"}}, "temperature": 0}])
@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_response_is_what_the_client_expects(fields: dict[str, Any], status: Any) -> None:
    teller = narrator()
    event = Event(0, text=TEXT, finish_reason="stop", prompt_tokens=5, completion_tokens=7, cached_tokens=3)
    for _ in teller.feed(event):
        pass
    response = Response.model_validate(json.loads(json.dumps(shape(**fields).of(status, teller.items, event))), strict=True)
    assert [item.type for item in response.output] == ["message", "function_call"]
    assert response.usage is not None
    assert (response.usage.total_tokens, response.usage.input_tokens_details.cached_tokens) == (12, 3)


def test_a_response_that_failed_is_one_too() -> None:
    failed = shape().of("failed", [], error={"code": "server_error", "message": "broken"})
    assert Response.model_validate(failed, strict=True).error is not None


def test_every_event_is_what_the_client_expects() -> None:
    teller, writer, known = narrator(), EventWriter(), TypeAdapter[Any](ResponseStreamEvent)
    tokens = [TokenLogprob("W", -0.5, (("W", -0.5),))]
    news = [Event(0, text=TEXT[:3], logprobs=tuple(tokens)), Event(0, text=TEXT[3:], finish_reason="stop")]
    told = [writer.write(event) for one in news for event in teller.feed(one)]
    told.append(writer.write({"type": "response.completed", "response": shape().of("completed", teller.items, news[-1])}))
    for number, line in enumerate(told):
        event = known.validate_json(line.split(b"data: ", 1)[1])
        assert event.sequence_number == number
        assert set(event.model_extra or ()) <= {"name"}
