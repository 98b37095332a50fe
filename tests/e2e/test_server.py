"""The server as the official `openai` client sees it, and as our own client does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from lianlu.client.base import ChatRequest, Sampling, ScoreRequest
from lianlu.client.openai import OpenAIClient
from lianlu.formats.messages import Message
from lianlu.serve.main import running_server

pytestmark = pytest.mark.e2e

CONTEXT = 4096
REPLY_TOKENS = 12
TEXT = "Let me add."
CALLS = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
TOOLS: Any = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
]
USER: Any = [{"role": "user", "content": "What is 1 + 1?"}]


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "reciter", "messages": USER, "temperature": 0} | fields)


def recite(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": "reciter", "prompt": "xy", "temperature": 0} | fields)


def test_a_reply(client: openai.OpenAI) -> None:
    reply = ask(client)
    assert reply.choices[0].message.content == TEXT + CALLS
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "reciter"
    assert reply.usage.completion_tokens == REPLY_TOKENS
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_streamed_reply_is_the_same(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT + CALLS
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == REPLY_TOKENS


def test_tool_calls(client: openai.OpenAI) -> None:
    choice = ask(client, tools=TOOLS).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", TEXT)
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
    answer = {"role": "tool", "tool_call_id": call.id, "content": "2"}
    again = ask(client, tools=TOOLS, messages=[*USER, choice.message.model_dump(), answer])
    assert again.usage.prompt_tokens > 0


def test_streamed_tool_calls(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="reciter", messages=USER, tools=TOOLS, temperature=0) as stream:
        shown = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion().choices[0]
    assert shown == TEXT
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls is not None
    assert json.loads(final.message.tool_calls[0].function.arguments) == {"a": 1}


def test_logprobs(client: openai.OpenAI) -> None:
    entries = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [entry.token for entry in entries][:3] == ["Let", " me", " add"]
    for entry in entries:
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
        assert len(entry.top_logprobs) == 3
        assert -1.0 < entry.logprob < 0.0
    streamed = [
        e for c in ask(client, logprobs=True, stream=True) if c.choices[0].logprobs for e in c.choices[0].logprobs.content
    ]
    assert [entry.logprob for entry in streamed] == [entry.logprob for entry in entries]


def test_stop_and_max_tokens(client: openai.OpenAI) -> None:
    choice = recite(client, max_tokens=100, stop=["f", "zz"]).choices[0]
    assert (choice.text, choice.finish_reason) == ("zabcde", "stop")
    choice = recite(client, max_tokens=3).choices[0]
    assert (choice.text, choice.finish_reason) == ("zab", "length")
    streamed = "".join(c.choices[0].text for c in recite(client, max_tokens=100, stop="cd", stream=True))
    assert streamed == "zab"
    assert ask(client, max_completion_tokens=2).choices[0].message.content == "Let me"


def test_choices_and_seeds(client: openai.OpenAI) -> None:
    def texts(**fields: Any) -> list[str]:
        return [choice.text for choice in recite(client, temperature=1.5, max_tokens=12, **fields).choices]

    first = texts(n=3, seed=5)
    assert len(set(first)) == 3
    assert texts(n=3, seed=5) == first
    assert texts(n=1, seed=6) == [first[1]]
    assert texts(n=3, seed=99) != first
    assert len(set(texts(n=4))) > 1


def test_prompts_of_all_kinds(client: openai.OpenAI) -> None:
    body = recite(client, prompt=["ab", "xy"], max_tokens=2)
    assert [choice.text for choice in body.choices] == ["cd", "za"]
    assert body.usage.prompt_tokens == 4
    assert recite(client, prompt="", max_tokens=1).choices[0].finish_reason == "length"


def test_echo_scores_a_text(client: openai.OpenAI) -> None:
    choice = recite(client, prompt="abcx", max_tokens=0, echo=True, logprobs=2).choices[0]
    assert choice.text == "abcx"
    assert choice.logprobs.tokens == list("abcx")
    assert choice.logprobs.text_offset == [0, 1, 2, 3]
    first, *rest = choice.logprobs.token_logprobs
    assert first is None
    assert rest[0] == pytest.approx(rest[1])
    assert rest[2] == pytest.approx(rest[0] - 7.0, abs=0.05)
    both = recite(client, prompt="ab", max_tokens=2, echo=True, logprobs=0).choices[0]
    assert (both.text, both.logprobs.tokens) == ("abcd", list("abcd"))
    assert both.logprobs.token_logprobs[1:] == pytest.approx([rest[0]] * 3)


def test_our_own_client_scores_and_streams(url: str) -> None:
    own = OpenAIClient(url)
    likely, unlikely = own.score([ScoreRequest("ab", "cd"), ScoreRequest("ab", "xx")])
    assert (likely.num_tokens, likely.is_greedy, unlikely.is_greedy) == (2, True, False)
    assert likely.logprob > unlikely.logprob
    deltas = list(own.stream(ChatRequest([Message(role="user", content="hi")], sampling=Sampling(max_tokens=4))))
    assert "".join(delta.text for delta in deltas) == TEXT
    assert deltas[-1].reply is not None
    own.close()


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("reciter", "lianlu")
    assert model.model_dump()["context_length"] == CONTEXT
    assert client.models.retrieve("reciter").id == "reciter"


def test_requests_side_by_side_get_their_own_answers(url: str) -> None:
    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            starts = [ALPHABET[i % 24 : i % 24 + 2] for i in range(24)]
            jobs = [client.completions.create(model="reciter", prompt=start, max_tokens=30, temperature=0) for start in starts]
            return [start + reply.choices[0].text for start, reply in zip(starts, await asyncio.gather(*jobs), strict=True)]

    endless = ALPHABET * 3
    for text in asyncio.run(all_at_once()):
        assert text in endless


def test_async_streams(url: str) -> None:
    async def read() -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(model="reciter", messages=USER, temperature=0, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(read()) == TEXT + CALLS


def test_errors_have_the_client_s_types(client: openai.OpenAI, url: str, soon_idle: Callable[[str], bool]) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, temperature=3)
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        ask(client, model="other")
    with pytest.raises(openai.BadRequestError, match=f"{CONTEXT}"):
        recite(client, prompt="x" * (CONTEXT + 1))
    with pytest.raises(openai.BadRequestError):
        recite(client, prompt=[10**9])
    with pytest.raises(openai.BadRequestError):
        recite(client, prompt=[-1])
    assert soon_idle(url)


def test_a_server_with_a_key(reciter: Path) -> None:
    with running_server(reciter, api_key="secret") as address:
        assert address.startswith("http://127.0.0.1:")
        for key, good in (("wrong", False), ("secret", True)):
            with openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client:
                if good:
                    assert client.models.list().data[0].id == reciter.name
                else:
                    with pytest.raises(openai.AuthenticationError):
                        client.models.list()


def test_the_embedded_model_knows_a_capital(smollm2: Path) -> None:
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    with (
        running_server(smollm2, name="smollm2") as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="-") as client,
    ):
        whole = client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=24)
        stream = client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=24, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "Paris" in (whole.choices[0].message.content or "")
    assert streamed == whole.choices[0].message.content
