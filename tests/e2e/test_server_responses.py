"""The responses API as the official `openai` client sees it, over the reciter (see conftest)."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

pytestmark = pytest.mark.e2e

TEXT = "Let me add."
ARGUMENTS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOLS: Any = [{"type": "function", "name": "add", "parameters": ARGUMENTS, "strict": True}]


class Answer(BaseModel):
    """A form whose every reply is short."""

    verdict: Literal["yes", "no"]
    sure: bool


def respond(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(**{"model": "reciter", "input": "What is 1 + 1?", "temperature": 0} | fields)


def test_a_response(client: openai.OpenAI) -> None:
    response = respond(client, instructions="Be brief.", metadata={"who": "me"})
    assert response.status == "completed"
    assert response.output_text.startswith(TEXT)
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.metadata == {"who": "me"}
    assert response.id.startswith("resp_")


def test_a_stream_adds_up_to_the_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="reciter", input="What is 1 + 1?", tools=TOOLS, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    written = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    message, call = final.output
    assert (message.type, final.output_text) == ("message", TEXT)
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "add", {"a": 1})
    assert written == call.arguments
    assert call.parsed_arguments == {"a": 1}


def test_raw_events(client: openai.OpenAI) -> None:
    kinds = [event.type for event in respond(client, stream=True, max_output_tokens=2)]
    assert kinds[:4] == [f"response.{k}" for k in ("created", "in_progress", "output_item.added", "content_part.added")]
    assert kinds[-4:] == [f"response.{k}" for k in ("output_text.done", "content_part.done", "output_item.done", "incomplete")]


def test_a_round_trip_of_a_call_by_id(client: openai.OpenAI) -> None:
    first = respond(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    (call,) = first.output
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "2"}]
    second = respond(client, previous_response_id=first.id, input=output, tools=TOOLS)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0


def test_a_round_trip_of_a_call_by_items(client: openai.OpenAI) -> None:
    first = respond(client, tools=TOOLS, store=False)
    call = first.output[-1]
    history: Any = [{"role": "user", "content": "What is 1 + 1?"}, *(item.model_dump() for item in first.output)]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "2"})
    assert respond(client, input=history, tools=TOOLS, store=False).status == "completed"


def test_a_form_for_the_text(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="reciter", input="hi", text_format=Answer, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Answer)
    with client.responses.stream(model="reciter", input="hi", text_format=Answer, max_output_tokens=200) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Answer)
    schema = {"type": "object", "properties": {"ok": {"const": True}}, "required": ["ok"], "additionalProperties": False}
    response = respond(client, text={"format": {"type": "json_schema", "name": "ok", "schema": schema, "strict": True}})
    assert json.loads(response.output_text) == {"ok": True}


def test_stored_responses(client: openai.OpenAI) -> None:
    response = respond(client)
    assert client.responses.retrieve(response.id).output_text == response.output_text
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError) as caught:
        respond(client, previous_response_id=response.id)
    assert caught.value.param == "previous_response_id"
    unstored = respond(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_log_probabilities(client: openai.OpenAI) -> None:
    response = respond(client, include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=3)
    entries = response.output[0].content[0].logprobs
    assert [entry.token for entry in entries] == ["Let", " me", " add"]
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


def test_a_response_that_was_cut_off(client: openai.OpenAI) -> None:
    response = respond(client, max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output_text == "Let me"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": "x" * 5000}, "input"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"extra_body": {"max_tokens": 5}}, "max_tokens"),
    ],
)
def test_refusals_name_the_field(client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, **fields)
    assert caught.value.param == param


def test_asynchronous_streams(url: str) -> None:
    async def read() -> str:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
        async with client, client.responses.stream(model="reciter", input="hi", temperature=0) as stream:
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert asyncio.run(read()).startswith(TEXT)
