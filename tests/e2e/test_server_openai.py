"""What users of the official `openai` client send beyond the plain: forms of a reply, tools, sampling, over a quick model.

The reciter (see conftest) writes what is in it unless a grammar or a penalty makes it write something else.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

pytestmark = pytest.mark.e2e

USER: Any = [{"role": "user", "content": "What is 1 + 1?"}]
TEXT = "Let me add."
REPLY_TOKENS = 12


class Answer(BaseModel):
    """A form whose every reply is short."""

    verdict: Literal["yes", "no"]
    sure: bool


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}


TOOLS: Any = [function("add", a={"type": "integer", "minimum": 0, "maximum": 9}), function("answer", sure={"type": "boolean"})]
CHOOSE_ANSWER: Any = {"type": "function", "function": {"name": "answer"}}


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "reciter", "messages": USER, "temperature": 0, "max_tokens": 200} | fields)


def recite(client: openai.OpenAI, **fields: Any) -> str:
    reply = client.completions.create(**{"model": "reciter", "prompt": "xy", "temperature": 0, "max_tokens": 6} | fields)
    return str(reply.choices[0].text)


def streamed(chunks: Any) -> tuple[str, list[list[Any]], str]:
    """Text, pieces by call (the first one has the name), and the reason of the end."""
    text, calls, reason = "", list[list[Any]](), ""
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for piece in choice.delta.tool_calls or ():
                if piece.id:
                    calls.append([])
                    assert piece.type == "function"
                calls[piece.index].append(piece)
    return text, calls, reason


def test_a_pydantic_model_as_the_form_of_a_reply(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(model="reciter", messages=USER, response_format=Answer, max_tokens=200)
    assert isinstance(reply.choices[0].message.parsed, Answer)
    assert reply.choices[0].finish_reason == "stop"


def test_a_form_is_kept_in_a_stream_too(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="reciter", messages=USER, response_format=Answer, max_tokens=200) as stream:
        shown = "".join(event.delta for event in stream if event.type == "content.delta")
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert parsed == Answer.model_validate_json(shown)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"structured_outputs": {"choice": ["maybe", "never"]}}, {"maybe", "never"}),
        ({"structured_outputs": {"regex": "(ab){3}"}}, {"ababab"}),
        ({"structured_outputs": {"json": {"const": [1, {}]}}}, {"[1, {}]", "[1,{}]"}),
        ({"guided_grammar": 'start: "x" "y"'}, {"xy"}),
        ({"guided_grammar": 'root ::= "x" ("y" | "z")'}, {"xy", "xz"}),
    ],
)
def test_forms_as_users_of_other_servers_send_them(client: openai.OpenAI, form: Any, expected: set[str]) -> None:
    assert ask(client, extra_body=form).choices[0].message.content in expected
    assert recite(client, extra_body=form, max_tokens=100) in expected


def test_any_json_object(client: openai.OpenAI) -> None:
    """As a model without sense may go on for ever, what came is the beginning of an object."""
    content = ask(client, response_format={"type": "json_object"}, max_tokens=5).choices[0].message.content
    assert content.startswith("{")


def test_forms_that_cannot_be_are_refused_with_their_field(client: openai.OpenAI) -> None:
    bad_schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    for form, param in [({"response_format": bad_schema}, "response_format"), ({"guided_regex": "("}, "guided_regex")]:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, extra_body=form)
        assert caught.value.status_code in (400, 422)
        assert caught.value.param == param


def test_a_call_may_be_required(client: openai.OpenAI) -> None:
    choice = ask(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert call.function.name in ("add", "answer")
    assert isinstance(json.loads(call.function.arguments), dict)


def test_one_tool_may_be_named(client: openai.OpenAI) -> None:
    choice = ask(client, tools=TOOLS, tool_choice=CHOOSE_ANSWER, parallel_tool_calls=False).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == "answer"
    assert json.loads(call.function.arguments) in ({"sure": True}, {"sure": False})
    assert choice.finish_reason == "tool_calls"


def test_calls_stream_while_they_are_written(client: openai.OpenAI) -> None:
    counts = []
    for _ in range(5):  # a busy machine may join pieces
        chunks = ask(client, tools=TOOLS, tool_choice=CHOOSE_ANSWER, parallel_tool_calls=False, stream=True)
        text, (pieces,), reason = streamed(chunks)
        assert (text, reason) == ("", "tool_calls")
        assert (pieces[0].function.name, pieces[0].function.arguments) == ("answer", "")
        assert set(json.loads("".join(piece.function.arguments for piece in pieces[1:]))) == {"sure"}
        counts.append(len(pieces))
    assert max(counts) > 3


def test_a_model_may_call_or_not(client: openai.OpenAI) -> None:
    whole = ask(client, tools=TOOLS).choices[0]
    text, (pieces,), reason = streamed(ask(client, tools=TOOLS, stream=True))
    assert text == whole.message.content == TEXT
    assert reason == whole.finish_reason == "tool_calls"
    assert pieces[0].function.name == whole.message.tool_calls[0].function.name == "add"
    assert "".join(p.function.arguments for p in pieces) == whole.message.tool_calls[0].function.arguments == '{"a": 1}'
    assert ask(client, tools=TOOLS, tool_choice="none").choices[0].message.tool_calls is None


def test_a_call_that_was_cut_off(client: openai.OpenAI) -> None:
    choice = ask(client, tools=TOOLS, max_tokens=9).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments == '{"a":'


def test_combinations_that_make_no_sense(client: openai.OpenAI) -> None:
    form = {"type": "json_object"}
    for fields, param in [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
        ({"tools": TOOLS, "response_format": form}, "tools"),
        ({"response_format": form, "extra_body": {"guided_choice": ["a"]}}, "guided_choice"),
        ({"extra_body": {"guided_choice": []}}, "guided_choice"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"extra_body": {"session": "kept"}}, "session"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, **fields)
        assert caught.value.param == param


def test_biases_ban_and_force_tokens(client: openai.OpenAI) -> None:
    assert recite(client) == "zabcde"
    ids = {"z": ord("z") - 33, "q": ord("q") - 33}
    assert recite(client, logit_bias={str(ids["z"]): -100})[0] != "z"
    assert recite(client, logit_bias={str(ids["q"]): 100}) == "qqqqqq"


def test_penalties_break_a_circle(client: openai.OpenAI) -> None:
    prompt = "abcdefghijklmnopqrstuvwxyz"
    assert recite(client, prompt=prompt, max_tokens=100) == (prompt * 4)[:100]
    penalised = recite(client, prompt=prompt, max_tokens=100, presence_penalty=2, frequency_penalty=2)
    assert penalised[:78] == prompt * 3
    assert penalised[78] != "a"


def test_draws_can_be_repeated(client: openai.OpenAI) -> None:
    wild = {"temperature": 2, "max_tokens": 20}
    first = recite(client, seed=7, **wild)
    assert recite(client, seed=7, **wild) == first
    assert recite(client, seed=8, **wild) != first
    assert recite(client, seed=7, **wild, extra_body={"min_p": 1}) == ("zabcdefghijklmnopqrstuvwxyz" * 2)[:20]


def test_a_stream_of_two_choices_with_usage(client: openai.OpenAI) -> None:
    chunks = list(ask(client, n=2, stream=True, stream_options={"include_usage": True}, logprobs=True))
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts[0] == texts[1]
    assert texts[0].startswith(TEXT)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 2 * REPLY_TOKENS
    num_logprobs = sum(len(c.choices[0].logprobs.content) for c in chunks[:-1] if c.choices[0].logprobs)
    assert num_logprobs == 2 * REPLY_TOKENS


def test_an_end_token_may_be_ignored(client: openai.OpenAI) -> None:
    choice = ask(client, max_tokens=20, extra_body={"ignore_eos": True}).choices[0]
    assert choice.finish_reason == "length"


def test_asynchronous_parsing_and_calls(url: str) -> None:
    async def both() -> tuple[Any, Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            parsed = client.chat.completions.parse(model="reciter", messages=USER, response_format=Answer, max_tokens=200)
            called = client.chat.completions.create(
                model="reciter", messages=USER, tools=TOOLS, tool_choice="required", max_tokens=200, temperature=0
            )
            return tuple(await asyncio.gather(parsed, called))

    parsed, called = asyncio.run(both())
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    assert called.choices[0].message.tool_calls
