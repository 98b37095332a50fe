"""Vocabularies as llguidance reads them itself, and penalties as transformers computes them, on the embedded model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from llguidance import LLTokenizer

from lianlu.client.base import Constraint, Sampling
from lianlu.engine.grammar import Grammars
from lianlu.engine.rules import rules_for
from lianlu.engine.sequence import Request
from lianlu.formats.messages import Message, ToolSpec
from lianlu.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return Tokenizer.load(smollm2)


def test_every_token_has_the_bytes_that_llguidance_finds_in_a_tokenizer_json(tokenizer: Tokenizer) -> None:
    theirs = LLTokenizer(tokenizer.backend.files()["tokenizer.json"].decode(), eos_token=list(tokenizer.eos_ids))
    ours = tokenizer.contents()
    assert len(ours) == theirs.vocab_size
    for index, content in enumerate(ours):
        assert theirs.is_special_token(index) == (content is None)
        assert content is None or content == theirs.decode_bytes([index])


def test_contents_of_random_tokens_are_their_text(tokenizer: Tokenizer) -> None:
    contents, rng = tokenizer.contents(), random.Random(1)
    plain = [index for index, content in enumerate(contents) if content is not None]
    for _ in range(200):
        ids = rng.choices(plain, k=8)
        whole = b"".join(contents[index] or b"" for index in ids)
        assert tokenizer.decode(ids) == whole.decode(errors="replace")


@pytest.mark.parametrize(("repetition", "bias"), [(1.3, 0.0), (0.8, 0.0), (1.0, 2.5), (1.7, -100.0)])
def test_repetition_and_bias_are_those_of_transformers(repetition: float, bias: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(2)) * 4
    prompt, reply = [3, 7, 7, 9], [1, 9, 30]
    theirs = (
        SequenceBiasLogitsProcessor([[[5], bias], [[9], bias]])(torch.tensor([prompt + reply]), logits.clone())
        if bias
        else logits
    )
    theirs = RepetitionPenaltyLogitsProcessor(repetition)(torch.tensor([prompt + reply]), theirs.clone())
    wanted = Sampling(repetition_penalty=repetition, logit_bias=((5, bias), (9, bias)))
    rules = rules_for(Request(tuple(prompt), wanted), Grammars(None, 40, ()))  # type: ignore[arg-type]
    assert rules is not None
    for token in reply:
        rules.accept(token)
    assert torch.equal(rules.adjust(logits[0]), theirs[0])


def test_constrained_replies_of_the_embedded_model(smollm2: Path) -> None:
    """Greedy and drawn, alone and together: JSON that has the asked shape, and calls of the tool on offer."""
    from lianlu.client.base import ChatRequest
    from lianlu.engine.connect import connect

    fields = {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 120}}
    shape = {"type": "object", "properties": fields, "required": ["name", "age"], "additionalProperties": False}
    ask = [Message(role="user", content="Anna is 31 years old. Answer with her name and age as JSON.")]
    place = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    tool = ToolSpec(name="weather", description="Weather of a city", parameters=place)
    client = connect(str(smollm2))
    try:
        constraint = Constraint("json", json.dumps(shape))
        requests = [
            ChatRequest(ask, (), Sampling(max_tokens=40, temperature=heat, seed=1, constraint=constraint)) for heat in (0, 1.5)
        ]
        weather = [Message(role="user", content="What is the weather in Rome?")]
        requests.append(ChatRequest(weather, [tool], Sampling(max_tokens=40), tool_choice="weather"))
        replies = client.chat(requests)
        alone = [client.chat([request])[0] for request in requests[1:]]
    finally:
        client.close()
    assert [reply.message for reply in replies[1:]] == [reply.message for reply in alone]
    for reply in replies[:2]:
        assert reply.finish_reason == "stop"
        assert set(json.loads(reply.text)) == {"name", "age"}
    assert json.loads(replies[0].text)["age"] == 31
    assert {call.name for call in replies[2].message.tool_calls} == {"weather"}
    assert all(set(call.arguments) == {"city"} for call in replies[2].message.tool_calls)
