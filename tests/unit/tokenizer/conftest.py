"""A small byte-level vocabulary and small SentencePiece models, made once."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as Library
from tokenizers import models

from lianlu.core.store import Output
from lianlu.formats.documents import Document, write_documents
from lianlu.tokenizer.backend import Loaded
from lianlu.tokenizer.fast import FastBackend
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.tokenizer.train import TokenizerConfig, run

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again, and nobody knows why it's 1234 times.",
    "def add(a, b):\n    return a + b\n\n\nclass Thing:\n    pass\n",
    "你好，世界！今天天气很好，我们去公园散步吧。",
    "system user assistant You are a helpful assistant. Hello! Let me see. name arguments",
    "Ein Käse, ein Café und 😀 noch eins.\r\n\ttabs and   spaces",
]


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    rows = [Document(id=f"d{n}", text=TEXTS[n % 5] * (1 + n % 3), domain=("web", "code")[n % 5 == 1]) for n in range(200)]
    write_documents(folder, rows)
    return folder


@pytest.fixture(scope="session")
def folder(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Output(tmp_path_factory.mktemp("tokenizer"))
    run(TokenizerConfig(data=str(documents), vocab_size=600), out)
    return out.path


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def train_sentencepiece(**options) -> bytes:
    """The bytes of a small tokenizer.model."""
    writer = io.BytesIO()
    settings = {"model_type": "bpe", "vocab_size": 400, "byte_fallback": True, "character_coverage": 0.999, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=writer, hard_vocab_limit=False, minloglevel=2, num_threads=1, **settings
    )
    return writer.getvalue()


@pytest.fixture(scope="session", name="train_sentencepiece")
def train_sentencepiece_fixture() -> Callable[..., bytes]:
    return train_sentencepiece


@pytest.fixture(scope="session", name="write_gguf")
def write_gguf_fixture() -> Callable[[Path, dict], Path]:
    return write_gguf


@pytest.fixture(scope="session")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like InternLM2's: SentencePiece BPE without dummy prefix, six control tokens named in the config."""
    folder = tmp_path_factory.mktemp("internlm2")
    names = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
    proto = train_sentencepiece(add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity")
    size = sentencepiece.SentencePieceProcessor(model_proto=proto).vocab_size()
    (folder / "tokenizer.model").write_bytes(proto)
    rows = ", ".join(f'"{size + n}": {{"content": "{name}", "special": true}}' for n, name in enumerate(names))
    config = f'{{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "added_tokens_decoder": {{{rows}}}}}'
    (folder / "tokenizer_config.json").write_text(config)
    return folder


@pytest.fixture(scope="session")
def internlm2_tokenizer(internlm2: Path) -> Tokenizer:
    return Tokenizer.load(internlm2)


@pytest.fixture(scope="session")
def byte_level_without_chat() -> Tokenizer:
    library = Library(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    return Tokenizer(Loaded("bare", FastBackend(library)))


def write_gguf(path: Path, metadata: dict) -> Path:
    """A GGUF file that holds metadata and no tensors."""
    body = b"".join(_string(key) + _value(value) for key, value in metadata.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + body + b"\0" * 32)
    return path


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    kind, pack = {str: (8, _string), int: (5, lambda n: struct.pack("<i", n)), float: (6, lambda x: struct.pack("<f", x))}[
        type(value[0])
    ]
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(map(pack, value))
