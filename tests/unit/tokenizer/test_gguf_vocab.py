"""The vocabulary inside a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as Library

from lianlu.core.errors import DataError
from lianlu.tokenizer.gguf_vocab import load_gguf
from lianlu.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def metadata(folder: Path) -> dict:
    """The trained vocabulary as GGUF metadata."""
    table = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(table["model"]["vocab"], key=table["model"]["vocab"].get)
    kinds = {row["content"]: 3 if row["special"] else 4 for row in table["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in table["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


def test_a_byte_level_vocabulary(write_gguf, metadata: dict, tmp_path: Path, tokenizer: Tokenizer) -> None:
    loaded = Tokenizer.load(write_gguf(tmp_path / "model.gguf", metadata))
    for text in ("The quick brown fox, again 123", "你好，世界！\n\n  x", "it's <tool_call>"):
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.bos_id, loaded.eos_ids, loaded.adds_bos) == (1, (3, 0), False)
    assert loaded.has_chat_template


def test_control_tokens_stay_out_of_plain_text_and_user_defined_ones_do_not(write_gguf, metadata: dict, tmp_path: Path) -> None:
    loaded = Tokenizer.load(write_gguf(tmp_path / "model.gguf", metadata))
    assert loaded.encode("<tool_call>") == [loaded.token_id("<tool_call>")]
    assert len(loaded.encode("<|im_end|>")) > 1


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["a", " ", "1", "2", " b"]),
        ("gpt-2", ["a", " 12", " b"]),
        ("llama-bpe", ["a", " ", "12", " b"]),
        ("qwen2", ["a", " ", "1", "2", " b"]),
        ("default", ["a", " ", "12", " b"]),
    ],
)
def test_each_way_of_splitting(write_gguf, metadata: dict, tmp_path: Path, pre: str, pieces: list[str]) -> None:
    loaded = load_gguf(write_gguf(tmp_path / "model.gguf", metadata | {"tokenizer.ggml.pre": pre}))
    table = json.loads(loaded.backend.files()["tokenizer.json"])
    splitter = Library.from_str(json.dumps(table)).pre_tokenizer
    found = splitter.pre_tokenize_str("a 12 b")
    assert ["a 12 b"[start:end] for _, (start, end) in found] == pieces


def test_a_sentencepiece_vocabulary(write_gguf, train_sentencepiece, tmp_path: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_proto=train_sentencepiece(remove_extra_whitespaces=False, normalization_rule_name="identity")
    )
    size = model.vocab_size()
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in range(size)]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [float(model.get_score(i)) for i in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    loaded = Tokenizer.load(write_gguf(tmp_path / "model.gguf", metadata))
    for text in ("The quick brown fox", " leading", "你好 😀 --------- x", "<s>not control</s>"):
        assert loaded.encode(text) == model.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
    assert loaded.adds_bos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "of the kind 'bert'"),
        ({"tokenizer.ggml.pre": "martian"}, "'martian'"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "token types"),
        ({"tokenizer.ggml.merges": ["no such", "pair there"]}, "damaged"),
        ({"tokenizer.ggml.tokens": "none"}, r"no tokenizer\.ggml\.tokens"),
        ({"tokenizer.ggml.merges": ["alone"]}, "damaged"),
    ],
)
def test_what_cannot_be_read_is_named(write_gguf, metadata: dict, tmp_path: Path, change: dict, message: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", metadata | change)
    with pytest.raises(DataError, match=message) as caught:
        load_gguf(path)
    assert "model.gguf" in caught.value.message
    assert caught.value.hint


def test_named_templates(write_gguf, metadata: dict, tmp_path: Path) -> None:
    more = {"tokenizer.chat_template.tool_use": "{{ tools }}", "tokenizer.chat_templates": ["tool_use"]}
    loaded = load_gguf(write_gguf(tmp_path / "model.gguf", metadata | more))
    assert loaded.templates == {"tool_use": "{{ tools }}", "default": "{{ messages[0].content }}"}


def test_a_folder_with_one_gguf_is_that_gguf(write_gguf, metadata: dict, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", metadata)
    assert Tokenizer.load(tmp_path).vocab_size == len(metadata["tokenizer.ggml.tokens"])
