"""POST /v1/embeddings: OpenAI's shapes, the engine's vectors, bounds, and requests that go on beside it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from lianlu.client.base import Sampling
from lianlu.core.errors import RequestError
from lianlu.engine import embedding
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.sequence import Request
from lianlu.serve import embed
from lianlu.serve.embed import EmbeddingBody
from lianlu.serve.models import Lora
from lianlu.serve.service import Service

Ask = Callable[..., httpx.Response]
TEXTS = ["a cat", "a dog and a cat", "nothing at all"]


def expected(tiny: BackgroundEngine, texts: list[str], **options: Any) -> list[Any]:
    ids = [tiny.engine.tokenizer.encode(text) for text in texts]
    return [vector for batch in embedding.embed(tiny.engine.model, ids, **options) for vector in batch]


def vectors(reply: httpx.Response) -> list[Any]:
    assert reply.status_code == 200, reply.text
    return [np.array(item["embedding"], dtype=np.float32) for item in reply.json()["data"]]


def test_shape_and_numbers(ask: Ask, tiny: BackgroundEngine) -> None:
    reply = ask("POST", "/v1/embeddings", engine=tiny, json={"model": "tiny", "input": TEXTS, "user": "me"})
    body = reply.json()
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    assert {item["object"] for item in body["data"]} == {"embedding"}
    num_tokens = sum(map(len, TEXTS))
    assert body["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    assert body["id"] == reply.headers["x-request-id"]
    assert body["id"].startswith("embd-")
    assert np.array_equal(vectors(reply), expected(tiny, TEXTS))


def test_every_kind_of_input_gives_the_same_numbers(ask: Ask, tiny: BackgroundEngine) -> None:
    ids = [tiny.engine.tokenizer.encode(text) for text in TEXTS]
    many = vectors(ask("POST", "/v1/embeddings", engine=tiny, json={"input": ids}))
    assert np.array_equal(many, expected(tiny, TEXTS))
    for text, tokens, vector in zip(TEXTS, ids, many, strict=True):
        for one in (text, [text], tokens, [tokens]):
            assert np.array_equal(vectors(ask("POST", "/v1/embeddings", engine=tiny, json={"input": one})), [vector])


def test_base64_is_the_same_numbers(ask: Ask, tiny: BackgroundEngine) -> None:
    data = ask("POST", "/v1/embeddings", engine=tiny, json={"input": TEXTS, "encoding_format": "base64"}).json()["data"]
    found = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in data]
    assert np.array_equal(found, expected(tiny, TEXTS))


def test_wishes(ask: Ask, tiny: BackgroundEngine) -> None:
    def asked(**fields: Any) -> list[Any]:
        return vectors(ask("POST", "/v1/embeddings", engine=tiny, json={"input": TEXTS} | fields))

    assert np.array_equal(asked(pooling="last"), expected(tiny, TEXTS, pooling="last"))
    raw = expected(tiny, TEXTS, normalize=False)
    assert np.array_equal(asked(normalize=False), raw)
    assert np.array_equal(asked(normalize=False, dimensions=5), [vector[:5] for vector in raw])
    short = asked(dimensions=5)
    assert np.linalg.norm(short, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(short, [embedding.scaled(vector[:5]) for vector in expected(tiny, TEXTS)])
    assert np.array_equal(asked(truncate_prompt_tokens=4), expected(tiny, [text[:4] for text in TEXTS]))


def test_long_texts(ask: Ask, tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 700
    monkeypatch.setattr(tiny.engine, "max_len", room)
    text = "word " * (room // 5 + 1)
    refused = ask("POST", "/v1/embeddings", engine=tiny, json={"input": text})
    assert refused.status_code == 400
    assert "truncate_prompt_tokens" in refused.json()["error"]["message"]
    cut = ask("POST", "/v1/embeddings", engine=tiny, json={"input": text, "truncate_prompt_tokens": -1})
    assert cut.json()["usage"]["prompt_tokens"] == room
    assert np.array_equal(vectors(cut), expected(tiny, [text[:room]]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input is required"),
        ({"input": ""}, "empty"),
        ({"input": []}, "empty"),
        ({"input": ["a", ""]}, "empty"),
        ({"input": [[1], []]}, "empty"),
        ({"input": [1, "a"]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": [259]}, "outside 0..258"),
        ({"input": [[-1]]}, "outside"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 33}, "vectors have 32"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": "a", "dimension": 3}, "did you mean dimensions"),
        ({"input": ["a"] * 2049}, "2049 texts"),
    ],
)
def test_refusals(ask: Ask, tiny: BackgroundEngine, body: dict[str, Any], message: str) -> None:
    reply = ask("POST", "/v1/embeddings", engine=tiny, json=body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_bounds_and_keys(ask: Ask, tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("POST", "/v1/embeddings", engine=tiny, json={"input": "a", "model": "other"}).status_code == 404
    assert ask("POST", "/v1/embeddings", engine=None, json={"input": "a"}).status_code == 503
    assert ask("POST", "/v1/embeddings", engine=tiny, api_key="secret", json={"input": "a"}).status_code == 401
    monkeypatch.setattr(embed, "MAX_TOKENS", 20)
    reply = ask("POST", "/v1/embeddings", engine=tiny, json={"input": TEXTS})
    assert reply.status_code == 400
    assert "at most 20 at a time" in reply.json()["error"]["message"]


def test_requests_go_on_and_a_client_that_goes_ends_the_work(
    serving: Callable[..., Service], tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "PASS_TOKENS", 16)
    service = serving(tiny)
    caller = service.keys.anyone
    passes: list[int] = []
    hidden = embedding.hidden
    monkeypatch.setattr(embedding, "hidden", lambda *args: passes.append(tiny.stats().num_steps) or hidden(*args))
    body = EmbeddingBody(input=[f"{number:>16}" for number in range(400)])

    async def main() -> None:
        handle = tiny.submit(Request((65, 66), Sampling(max_tokens=4000), ignore_eos=True))
        work = asyncio.ensure_future(embed.embed(service, body, caller))
        while len(passes) < 5:
            await asyncio.sleep(0.001)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        handle.cancel()
        await handle.aresult()

    asyncio.run(main())
    assert len(set(passes[:5])) == 5, "a step of the running request lies between two passes"
    assert len(passes) < 400


def test_an_adapter_is_put_on(serving: Callable[..., Service], tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    service, names = serving(tiny), []
    service.adapters["styled"] = Lora("styled", service.default.path, service.default)
    monkeypatch.setattr(tiny.engine.adapters, "everywhere", lambda name: names.append(name) or contextlib.nullcontext())
    found = asyncio.run(embed.embed(service, EmbeddingBody(model="styled", input="a"), service.keys.anyone))
    assert found.model == "styled"
    assert set(names) == {"styled"}


def test_a_model_that_falls_asleep_ends_the_work(serving: Callable[..., Service], tiny: BackgroundEngine) -> None:
    service = serving(tiny)
    adapters, calls = tiny.engine.adapters, []

    class Asleep:
        def everywhere(self, name: str) -> Any:
            calls.append(name)
            raise RequestError("the model is asleep", hint="wake it first", status=503)

    tiny.engine.adapters = Asleep()  # type: ignore[assignment]
    try:
        with pytest.raises(RequestError) as caught:
            asyncio.run(embed.embed(service, EmbeddingBody(input="a"), service.keys.anyone))
    finally:
        tiny.engine.adapters = adapters
    assert (caught.value.status, calls) == (503, [""])
