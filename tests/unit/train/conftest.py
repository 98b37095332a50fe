"""A small world to train in: a tokenizer with a chat format, shards, conversations, and a model of a few thousand weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from lianlu.core.config import validate
from lianlu.core.store import Output
from lianlu.formats.messages import Conversation, Message, write_conversations
from lianlu.formats.shard_index import Origin, write_index
from lianlu.formats.shards import ShardWriter
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.pretrain import PretrainConfig
from lianlu.train.sft import SftConfig

torch.set_num_threads(1)

WORDS = ["the", "a", "cat", "dog", "tree", "house", "sees", "finds", "likes", "old", "small", "def", "return", "value", "runs"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_texts(count: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=source.randint(5, 60))) + "." for _ in range(count)]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        make_texts(50), trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet)
    )
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)


def write_shards(folder: Path, tokenizer: Tokenizer, train: list[str], held_out: list[str], tiers: Sequence[str] = ("",)) -> Path:
    """Shards with an index; documents have the tiers in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    for name, texts in (("train.bin", train), ("held_out.bin", held_out)):
        with ShardWriter(folder / name, tokenizer.vocab_size) as shard:
            for text in texts:
                shard.add([*tokenizer.encode(text), 0], len(text.encode()))
        write_index(folder / name, (Origin(f"{name}{n}", tier=tiers[n % len(tiers)]) for n in range(len(texts))))
    return folder


@pytest.fixture(scope="session")
def shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), tokenizer, make_texts(60, 1), make_texts(12, 2))


@pytest.fixture(scope="session")
def number_shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another source of the same tokenizer: rows of figures, some of them long."""
    source = random.Random(5)
    rows = [" ".join(str(source.randint(0, 99)) for _ in range(length)) for length in (9, 80, 14, 120, 30) * 6]
    return write_shards(tmp_path_factory.mktemp("shard-numbers"), tokenizer, rows[:25], rows[25:])


@pytest.fixture(scope="session")
def tiered_shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source whose documents are high, moderate, low and without a tier, in turn."""
    tiers = ("high", "moderate", "low", "")
    return write_shards(tmp_path_factory.mktemp("shard-code"), tokenizer, make_texts(40, 6), make_texts(8, 7), tiers)


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversations")

    def made(count: int, seed: int) -> list[Conversation]:
        texts = make_texts(2 * count, seed)
        return [
            Conversation(
                id=str(i),
                messages=[
                    Message(role="user", content=texts[2 * i][:40]),
                    Message(role="assistant", content=texts[2 * i + 1]),
                ],
            )
            for i in range(count)
        ]

    write_conversations(folder / "train.jsonl", made(24, 3))
    write_conversations(folder / "held_out.jsonl", made(6, 4))
    return folder


@pytest.fixture(scope="session")
def nano_model(tokenizer: Tokenizer) -> Decoder:
    """Tests may put gradients on it, but must leave its weights alone."""
    return build_model(ModelConfig(vocab_size=tokenizer.vocab_size, initializer_range=0.2, **SHAPE), seed=1)


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "nano"
    config = ModelConfig(vocab_size=tokenizer.vocab_size, eos_token_ids=tokenizer.eos_ids, **SHAPE)
    save_model(build_model(config, seed=1), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture
def pretrain_config(shards: Path) -> Callable[..., PretrainConfig]:
    def make(**changes: Any) -> PretrainConfig:
        base = {"data": str(shards), "model": SHAPE, "steps": 8, "batch_tokens": 128, "sequence_length": 32}
        small = {"precision": "float32", "sample_tokens": 4, "held_out_tokens": 400, "optim": {"lr": 1e-2}}
        return validate(PretrainConfig, {**base, **small, **changes})

    return make


@pytest.fixture
def sft_config(checkpoint: Path, conversations: Path) -> Callable[..., SftConfig]:
    def make(**changes: Any) -> SftConfig:
        base = {"model": str(checkpoint), "data": str(conversations), "batch_tokens": 300, "precision": "float32"}
        small = {"sample_tokens": 4, "num_samples": 1, "optim": {"lr": 1e-2}, "epochs": 2}
        return validate(SftConfig, {**base, **small, **changes})

    return make


@pytest.fixture
def new_output(tmp_path: Path) -> Callable[[str], Output]:
    def make(name: str) -> Output:
        (tmp_path / name).mkdir(exist_ok=True)
        return Output(tmp_path / name)

    return make
