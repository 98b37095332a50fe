"""What the tests of the engine share: tiny random models, and a tokenizer whose tokens are letters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Event, Request
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.lora import add_lora, save_adapter
from lianlu.model.lora_spec import LoraSpec

VOCAB = 64
EOS = 0
SHAPE = {
    "architecture": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
SMALL = EngineConfig(max_tokens=256, block_size=8, max_batch_tokens=16, max_running=4)


class LetterStream:
    """Incremental decoding of `LetterTokenizer`."""

    def push(self, token_id: int) -> str:
        return "" if token_id == EOS else LetterTokenizer.letter(token_id)

    def flush(self) -> str:
        return ""


class LetterTokenizer:
    """Token i is the i-th character from "?" on; token 0 ends a text."""

    eos_ids = (EOS,)
    bos_id = None
    adds_bos = False
    vocab_size = VOCAB

    @staticmethod
    def letter(token_id: int) -> str:
        return chr(ord("?") + token_id)

    def encode(self, text: str, specials: bool = False) -> list[int]:
        return [ord(letter) - ord("?") for letter in text]

    def encode_within(self, text: str) -> list[int]:
        return self.encode(text)

    def contents(self) -> list[bytes | None]:
        return [None, *(self.letter(index).encode() for index in range(1, VOCAB))]

    def token(self, token_id: int) -> str:
        return self.letter(token_id)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], skip_specials: bool = True) -> str:
        return "".join(self.letter(index) for index in ids if index != EOS or not skip_specials)

    def stream(self) -> LetterStream:
        return LetterStream()


class Lab:
    """Makes models, engines and prompts."""

    vocab, eos, small = VOCAB, EOS, SMALL
    tokenizer = LetterTokenizer()

    def __init__(self) -> None:
        self.model = self.build()

    def build(self, seed: int = 3, dtype: torch.dtype = torch.float32, **changes: object) -> Decoder:
        """A new random model of the tiny shape, with some fields changed."""
        return build_model(ModelConfig.model_validate({**SHAPE, **changes}), seed, dtype)

    def engine(self, config: EngineConfig = SMALL, model: Decoder | None = None, draft: Decoder | None = None) -> Engine:
        return Engine(model or self.model, self.tokenizer, config, draft)  # type: ignore[arg-type]

    def prompts(self, count: int, seed: int = 0, longest: int = 40) -> list[tuple[int, ...]]:
        rng = random.Random(seed)
        return [tuple(rng.randrange(1, VOCAB) for _ in range(rng.randrange(1, longest))) for _ in range(count)]

    def run(self, target: Engine, requests: Sequence[Request]) -> list[Event]:
        """All news of each request, joined; the books are checked after every step."""
        ids = [target.submit(one) for one in requests]
        news: dict[int, list[Event]] = {number: [] for number in ids}
        while not target.idle:
            for event in target.step():
                news[event.request_id].append(event)
            target.scheduler.audit()
        return [Event.joined(news[number]) for number in ids]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, lab: Lab) -> dict[str, Path]:
    """Folders of adapters for the tiny model, of different ranks, layers and strengths; their names are a, b, c and other."""
    specs = {
        "a": LoraSpec(rank=4, alpha=8),
        "b": LoraSpec(rank=1, alpha=6, target=("q_proj", "v_proj")),
        "c": LoraSpec(rank=7, alpha=14, target=("k_proj", "o_proj", "up_proj")),
        "other": LoraSpec(rank=4, alpha=8),
    }
    made = {}
    for number, (name, spec) in enumerate(specs.items()):
        model, generator = lab.build(), torch.Generator().manual_seed(number)
        add_lora(model, spec, seed=number)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.3, generator=generator)
        made[name] = tmp_path_factory.mktemp(name)
        save_adapter(model, made[name], "base")
    return made
