"""Greedy replies of the engine are those of transformers, token by token, whatever runs beside them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.client.base import ChatScoreRequest, Sampling, ScoreRequest
from lianlu.engine.config import EngineConfig
from lianlu.engine.connect import connect
from lianlu.engine.engine import Engine
from lianlu.engine.local import LocalClient
from lianlu.engine.sequence import Event, Request
from lianlu.formats.messages import Message
from lianlu.model.load import load_model

TIGHT = EngineConfig(max_tokens=1024, block_size=16, max_batch_tokens=48, max_running=6)
QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "List three colours of the rainbow, one per line.",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run(engine: Engine, requests: list[Request]) -> list[Event]:
    ids = [engine.submit(request) for request in requests]
    news: dict[int, list[Event]] = {number: [] for number in ids}
    while not engine.idle:
        for event in engine.step():
            news[event.request_id].append(event)
        engine.scheduler.audit()
    return [Event.joined(news[number]) for number in ids]


def their_greedy(model: Any, prompt: tuple[int, ...], new: int, eos: list[int]) -> list[int]:
    with torch.inference_mode():
        model(torch.tensor([[1]]))  # with dynamic NTK it would go on with the frequencies of the longest text so far
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=new, do_sample=False, use_cache=True, eos_token_id=eos or None, pad_token_id=0
        )
    return out[0, len(prompt) :].tolist()


FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "llama-tied-mha": ("LlamaConfig", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-dynamic": (
        "LlamaConfig",
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 40},
    ),
    "llama-linear": ("LlamaConfig", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama-yarn": (
        "LlamaConfig",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    ),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_token_by_token(family: str, tmp_path: Path) -> None:
    import transformers

    name, changes = FAMILIES[family]
    shape = {
        "vocab_size": 128,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
        "eos_token_id": None,
        "bos_token_id": None,
    }
    torch.manual_seed(7)
    theirs = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**shape, **changes})).eval()
    theirs.save_pretrained(tmp_path)
    engine = Engine(load_model(tmp_path), Silent(), TIGHT)  # type: ignore[arg-type]
    rng = random.Random(3)
    common = [rng.randrange(1, 128) for _ in range(30)]
    prompts = [
        tuple(common[: rng.randrange(1, 30)] + [rng.randrange(1, 128) for _ in range(rng.randrange(1, 40))]) for _ in range(8)
    ]
    found = run(engine, [Request(prompt, Sampling(max_tokens=24), ignore_eos=True) for prompt in prompts])
    assert [list(event.token_ids) for event in found] == [their_greedy(theirs, prompt, 24, []) for prompt in prompts]


class Silent:
    """A tokenizer for a model that has none."""

    eos_ids: tuple[int, ...] = ()

    def stream(self) -> Silent:
        return self

    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


@pytest.fixture(scope="module")
def client(smollm2: Path) -> Iterator[LocalClient]:
    made = connect(smollm2, config=TIGHT)
    assert isinstance(made, LocalClient)
    yield made
    made.close()


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()


def test_smollm2_answers_as_transformers_does(client: LocalClient, theirs: Any) -> None:
    engine, tokenizer = client.engine.engine, client.tokenizer
    asked = [
        Request(tuple(tokenizer.render([Message(role="user", content=text)], reply=True).ids), Sampling(max_tokens=24))
        for text in QUESTIONS
    ]
    beside = [
        Request(tuple(tokenizer.encode(text * 9)), Sampling(max_tokens=12, temperature=1.0, seed=seed), ignore_eos=True)
        for seed, text in enumerate(("Once upon a time, ", "def main():\n    ", "The quick brown fox. "))
    ]
    found = client.engine.call(lambda: run(engine, [one for pair in zip(beside, asked, strict=True) for one in pair]))[1::2]
    for event, request in zip(found, asked, strict=True):
        expected = their_greedy(theirs, request.prompt, 24, list(tokenizer.eos_ids))
        assert list(event.token_ids) == expected
        assert event.text == tokenizer.decode(expected)
        assert event.finish_reason == ("stop" if expected[-1] in tokenizer.eos_ids else "length")


def test_smollm2_scores_as_transformers_does(client: LocalClient, theirs: Any) -> None:
    messages = [Message(role="user", content="What is 2+2?"), Message(role="assistant", content="It is 4.")]
    text, chat = client.score([ScoreRequest("The capital of France is ", "Paris."), ChatScoreRequest(messages)])
    whole = client.tokenizer.encode("The capital of France is Paris.")
    rendered = client.tokenizer.render(messages)
    chosen = [index for index, is_reply in enumerate(rendered.mask) if is_reply]
    for scored, ids, places in ((text, whole, range(5, len(whole))), (chat, rendered.ids, chosen)):
        with torch.inference_mode():
            table = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert scored.num_tokens == len(places)
        assert scored.logprob == pytest.approx(sum(table[t - 1, ids[t]].item() for t in places), abs=2e-4)
        assert scored.is_greedy == all(int(table[t - 1].argmax()) == ids[t] for t in places)
