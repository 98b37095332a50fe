"""Embeddings and tokenize through a running server: the official client in all its ways, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import numpy as np
import openai
import pytest

pytestmark = pytest.mark.e2e
TEXTS = [f"text number {number}, of some length {'x' * (number % 90)}" for number in range(300)]


def test_base64_is_what_the_client_asks_for_and_floats_are_the_same(client: openai.OpenAI) -> None:
    by_default = client.embeddings.create(model="reciter", input=TEXTS)
    floats = client.embeddings.create(model="reciter", input=TEXTS, encoding_format="float")
    assert [item.index for item in by_default.data] == list(range(len(TEXTS)))
    assert by_default.usage.prompt_tokens == by_default.usage.total_tokens == floats.usage.prompt_tokens
    assert np.array_equal([item.embedding for item in by_default.data], [item.embedding for item in floats.data])
    assert np.linalg.norm([item.embedding for item in by_default.data], axis=1) == pytest.approx(1, abs=1e-6)


def test_alone_in_a_batch_and_beside_others(client: openai.OpenAI, url: str) -> None:
    batch = client.embeddings.create(model="reciter", input=TEXTS[:20], dimensions=64).data

    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as asking:
            replies = await asyncio.gather(
                *(asking.embeddings.create(model="reciter", input=text, dimensions=64) for text in TEXTS[:20]),
                *(asking.completions.create(model="reciter", prompt="ab", max_tokens=50, temperature=0) for _ in range(4)),
            )
            assert all(reply.choices[0].text.startswith("cdef") for reply in replies[20:])
            return [reply.data[0].embedding for reply in replies[:20]]

    assert asyncio.run(ask()) == [item.embedding for item in batch]


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.embeddings.create(model="reciter", input=[])
    with pytest.raises(openai.BadRequestError, match="context"):
        client.embeddings.create(model="reciter", input="a" * 5000)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")


def test_a_client_that_leaves_holds_nobody_up(url: str, client: openai.OpenAI, soon_idle: Callable[[str], bool]) -> None:
    for _ in range(5):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{url}/v1/embeddings", json={"input": TEXTS * 6}, timeout=0.05)
    assert client.completions.create(model="reciter", prompt="ab", max_tokens=3, temperature=0).choices[0].text == "cde"
    assert soon_idle(url)


def test_counting_tokens_before_asking(url: str, client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Hello there"}]
    counted = httpx.post(f"{url}/tokenize", json={"messages": messages}).json()
    said = client.chat.completions.create(model="reciter", messages=messages, max_tokens=2)  # type: ignore[arg-type]
    assert said.usage is not None
    assert said.usage.prompt_tokens == counted["count"]
    text = httpx.post(f"{url}/detokenize", json={"tokens": counted["tokens"]}).json()["prompt"]
    assert text == "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"
