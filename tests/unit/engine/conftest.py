"""A tiny random model, and a tokenizer whose tokens are letters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model

VOCAB = 64
EOS = 0


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

    def decode(self, ids: Sequence[int], skip_specials: bool = True) -> str:
        return "".join(self.letter(index) for index in ids if index != EOS or not skip_specials)

    def stream(self) -> LetterStream:
        return LetterStream()


def tiny_config(**changes: object) -> ModelConfig:
    shape = {
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
    return ModelConfig.model_validate({**shape, **changes})


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Decoder:
    return build_model(tiny_config(), seed=3).eval()


@pytest.fixture
def letters() -> LetterTokenizer:
    return LetterTokenizer()
