"""The embedded model through the official `openai` client: what a grammar and a real vocabulary make of forms and tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from lianlu.serve.main import running_server

pytestmark = pytest.mark.e2e

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}}]
USER: Any = [{"role": "user", "content": "What will the weather be like in Paris in the next three days?"}]


class City(BaseModel):
    """A city, in few tokens."""

    name: str = Field(max_length=12)
    country: Literal["France", "Italy"]


@pytest.fixture(scope="module")
def client(smollm2: Path) -> Iterator[openai.OpenAI]:
    with (
        running_server(smollm2, name="smollm2") as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as made,
    ):
        yield made


def test_a_form(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Describe the capital of France as JSON."}]
    parsed = client.chat.completions.parse(model="smollm2", messages=question, response_format=City, temperature=0, max_tokens=60)
    city = parsed.choices[0].message.parsed
    assert city is not None
    assert city.country in ("France", "Italy")


def test_a_required_call_streams_as_it_is_written(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="smollm2", messages=USER, tools=TOOLS, tool_choice="required", temperature=0, max_tokens=60,
        parallel_tool_calls=False, stream=True,
    )  # fmt: skip
    first, *pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert (first.function.name, first.function.arguments) == ("weather", "")
    assert len(pieces) > 5
    arguments = json.loads("".join(piece.function.arguments for piece in pieces))
    assert 1 <= arguments["days"] <= 9
    assert len(arguments["city"]) <= 12


def test_a_choice_of_texts(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Is Paris the capital of France?"}]
    said = client.chat.completions.create(
        model="smollm2", messages=question, temperature=0, extra_body={"guided_choice": ["Yes", "No"]}
    )
    assert said.choices[0].message.content in ("Yes", "No")


def test_a_conversation_by_responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model="smollm2", input="What is the capital of France?", temperature=0, max_output_tokens=9)
    assert "Paris" in first.output_text
    second = client.responses.create(
        model="smollm2", input="And of Italy?", previous_response_id=first.id, temperature=0, max_output_tokens=9
    )
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > 0
