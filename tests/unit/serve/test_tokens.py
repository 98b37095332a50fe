"""Tokenize and detokenize: vLLM's shapes, the ids of the other routes, and every kind of refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lianlu.engine.background import BackgroundEngine
from lianlu.formats.messages import Message

Ask = Callable[..., httpx.Response]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"}]


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_there_and_back(ask: Ask, tiny: BackgroundEngine, prefix: str) -> None:
    reply = ask(
        "POST", f"{prefix}/tokenize", engine=tiny, json={"model": "tiny", "prompt": "Grüße, 世界", "return_token_strs": True}
    )
    found = reply.json()
    assert reply.status_code == 200
    assert found["tokens"] == tiny.engine.tokenizer.encode("Grüße, 世界")
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) == len("Grüße, 世界".encode())
    assert found["max_model_len"] == tiny.engine.max_len
    back = ask("POST", f"{prefix}/detokenize", engine=tiny, json={"tokens": found["tokens"]})
    assert back.json() == {"prompt": "Grüße, 世界"}


def test_a_conversation_is_tokenised_as_the_chat_route_does(ask: Ask, tiny: BackgroundEngine) -> None:
    tokenizer = tiny.engine.tokenizer
    messages = [Message.model_validate(message) for message in MESSAGES]
    found = ask("POST", "/tokenize", engine=tiny, json={"messages": MESSAGES}).json()
    assert found["tokens"] == tokenizer.render(messages, reply=True).ids
    assert found["token_strs"] is None
    chat = ask("POST", "/v1/chat/completions", engine=tiny, json={"messages": MESSAGES, "max_tokens": 1}).json()
    assert chat["usage"]["prompt_tokens"] == found["count"]
    without = ask("POST", "/tokenize", engine=tiny, json={"messages": MESSAGES, "add_generation_prompt": False}).json()
    assert without["tokens"] == tokenizer.render(messages).ids
    text = ask("POST", "/detokenize", engine=tiny, json={"tokens": without["tokens"]}).json()["prompt"]
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    with_tools = ask("POST", "/tokenize", engine=tiny, json={"messages": MESSAGES, "tools": tools}).json()
    assert with_tools["count"] > found["count"]


def test_the_opening_of_a_text(ask: Ask, tiny: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny.engine.tokenizer
    monkeypatch.setattr(tokenizer, "adds_bos", True)
    assert ask("POST", "/tokenize", engine=tiny, json={"prompt": "a"}).json()["tokens"] == [
        tokenizer.bos_id,
        *tokenizer.encode("a"),
    ]
    body = {"prompt": "", "add_special_tokens": False}
    assert ask("POST", "/tokenize", engine=tiny, json=body).json()["tokens"] == []


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "either prompt or messages"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, "belongs to messages"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "its own control tokens"),
        ("/tokenize", {"prompt": "a", "promt": "b"}, "did you mean prompt"),
        ("/detokenize", {"tokens": [1, 259]}, "outside 0..258"),
        ("/detokenize", {"tokens": [-1]}, "outside"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {}, "tokens is required"),
    ],
)
def test_refusals(ask: Ask, tiny: BackgroundEngine, path: str, body: dict[str, Any], message: str) -> None:
    reply = ask("POST", path, engine=tiny, json=body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_other_models_and_keys(ask: Ask, tiny: BackgroundEngine) -> None:
    assert ask("POST", "/tokenize", engine=tiny, json={"model": "other", "prompt": "a"}).status_code == 404
    assert ask("POST", "/tokenize", engine=None, json={"prompt": "a"}).status_code == 503
    assert ask("POST", "/tokenize", engine=tiny, api_key="secret", json={"prompt": "a"}).status_code == 401
    assert ask("POST", "/detokenize", engine=tiny, api_key="secret", json={"tokens": [1]}).status_code == 401
