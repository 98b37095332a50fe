"""Text to ids and back; control tokens come only from those who ask for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.tokenizer.tokenizer import Tokenizer

LETTERS = ["a", "b", "Z", "é", "ß", "e\u0301", "你", "好", "世", "界", "😀", "👩\u200d👩\u200d👧", "\ufdfa", "\u200d", "\u0301"]
SIGNS = ["0", "9", ".", ",", "\n", "\t", "\r", "\x00", "\ufffd", "<|im_end|>", "<|endoftext|>", "'", "'s", "--", "=="]
SCRIPTS = st.sampled_from(LETTERS + SIGNS)
TEXT = st.one_of(st.text(), st.lists(SCRIPTS).map("".join), st.lists(SCRIPTS).map(" ".join))


@given(TEXT)
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= index < tokenizer.vocab_size for index in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_specials=False) == text
    assert not set(ids) & set(tokenizer.backend.specials.values())


@given(st.lists(TEXT, max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_batch_is_its_texts(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@given(st.lists(st.integers(-5, 700)))
@settings(max_examples=100, deadline=None)
def test_any_ids_have_a_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    known = [index for index in ids if 0 <= index < tokenizer.vocab_size]
    assert tokenizer.decode(ids) == tokenizer.decode(known)


def test_control_tokens_only_when_asked(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_id("<|im_end|>")
    assert end not in tokenizer.encode("bye<|im_end|>")
    ids = tokenizer.encode("bye<|im_end|>", specials=True)
    assert ids[-1] == end
    assert tokenizer.decode(ids) == "bye"
    assert tokenizer.decode(ids, skip_specials=False) == "bye<|im_end|>"


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.token(tokenizer.bos_id) == "<|startoftext|>"
    assert [tokenizer.token(index) for index in tokenizer.eos_ids] == ["<|endoftext|>", "<|im_end|>"]
    assert tokenizer.token(tokenizer.pad_id) == "<|pad|>"
    assert not tokenizer.adds_bos
    assert tokenizer.token(tokenizer.vocab_size) is None
    assert tokenizer.token_id("no such token") is None


def test_lone_surrogates_do_no_harm(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud83dz")) == "a\ufffdz"


def test_saving_and_loading_keeps_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "copy")
    copy = Tokenizer.load(tmp_path / "copy")
    text = "Hello <|im_end|> 你好 123"
    assert copy.encode(text) == tokenizer.encode(text)
    assert (copy.bos_id, copy.eos_ids, copy.pad_id) == (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id)
    copy.save(tmp_path / "again")
    for file in (tmp_path / "copy").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_loads_a_file_as_well_as_its_folder(folder: Path, tokenizer: Tokenizer) -> None:
    assert Tokenizer.load(folder / "tokenizer.json").encode("hello") == tokenizer.encode("hello")


def test_special_tokens_may_be_objects_or_in_the_old_map(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<|startoftext|>"}, "pad_token": "<|pad|>"}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_end|>"}, "pad_token": null}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 0, 9999]}')
    loaded = Tokenizer.load(tmp_path)
    assert loaded.token(loaded.bos_id) == "<|startoftext|>"
    assert loaded.eos_ids == (3, 0)
    assert loaded.pad_id is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b'{"model": {"type": "None"}}'),
        ("tokenizer.json", b""),
        ("tokenizer.json", b"\xff\xfe\x00"),
        ("tokenizer.model", b"\x00\x01garbage"),
        ("model.gguf", b"GGUF but not really"),
        ("model.gguf", b""),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=name) as caught:
            Tokenizer.load(path)
        assert caught.value.hint


@pytest.mark.parametrize("content", ["[1]", "{", '{"added_tokens_decoder": 3}'])
def test_a_damaged_config_is_named(folder: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "weights.bin"):
        with pytest.raises(DataError) as caught:
            Tokenizer.load(path)
        assert "tokenizer.json" in caught.value.hint


def test_a_vocabulary_with_gaps_counts_the_highest_id(folder: Path, tmp_path: Path) -> None:
    table = json.loads((folder / "tokenizer.json").read_text())
    table["added_tokens"].append({**table["added_tokens"][0], "id": 5000, "content": "<|far|>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    loaded = Tokenizer.load(tmp_path)
    assert max(loaded.encode("x<|far|>", specials=True)) < loaded.vocab_size
