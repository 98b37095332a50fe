"""SentencePiece models: the library's own ids, control tokens, pieces of a text, models without a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.tokenizer import spm
from lianlu.tokenizer.tokenizer import Tokenizer

PLAIN = {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"}


@pytest.fixture(scope="module")
def prefixed(train_sentencepiece) -> spm.SentencePieceBackend:
    return spm.SentencePieceBackend(train_sentencepiece(add_dummy_prefix=True, **PLAIN), {}, "test")


def test_control_pieces_are_text_unless_asked_for(prefixed: spm.SentencePieceBackend) -> None:
    text = "a</s>b"
    plain, marked = prefixed.encode_batch([text])[0], prefixed.encode_runs([(text, True)])[0]
    assert 2 not in plain
    assert 2 in marked
    assert prefixed.decode(plain) == prefixed.decode(marked) == text


def test_only_beginnings_get_a_dummy_space(prefixed: spm.SentencePieceBackend) -> None:
    whole = prefixed.encode_runs([("hello world", True)])[0]
    cut = prefixed.encode_runs([("hello", True), (" world", True)])
    assert prefixed.decode([index for part in cut for index in part]) == "hello world"
    assert prefixed.decode(whole) == "hello world"
    after_control = prefixed.encode_runs([("<s>hello", True)])[0]
    assert after_control == [1, *prefixed.encode_batch(["hello"])[0]]


@given(st.text(), st.text())
@settings(max_examples=150, deadline=None)
def test_a_cut_changes_no_text(prefixed: spm.SentencePieceBackend, left: str, right: str) -> None:
    text = (left + right).replace("\u2581", "").replace("<s>", "").replace("</s>", "")
    ids = [index for part in prefixed.encode_runs([(text[:3], False), (text[3:], False)]) for index in part]
    assert prefixed.decode(ids) == text


def test_the_names_of_internlm2(internlm2: Path) -> None:
    tokenizer = Tokenizer.load(internlm2)
    start, end = tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<|im_end|>")
    assert (start, end) == (tokenizer.vocab_size - 1, tokenizer.vocab_size - 2)
    assert tokenizer.encode("<|im_start|>user\n", specials=True)[0] == start
    assert start not in tokenizer.encode("<|im_start|>user\n")
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id, tokenizer.adds_bos) == (1, (2, end), 2, True)


def test_saving_keeps_model_and_names(internlm2: Path, tmp_path: Path) -> None:
    Tokenizer.load(internlm2).save(tmp_path)
    copy = Tokenizer.load(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (internlm2 / "tokenizer.model").read_bytes()
    assert copy.encode("<|im_end|>hi", specials=True) == Tokenizer.load(internlm2).encode("<|im_end|>hi", specials=True)


def test_added_tokens_without_ids_are_an_error(internlm2: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((internlm2 / "tokenizer.model").read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"<|x|>": "many"}')
    with pytest.raises(DataError, match="added tokens without ids"):
        Tokenizer.load(tmp_path)


def test_a_model_file_alone_is_enough(internlm2: Path) -> None:
    alone = Tokenizer.load(internlm2 / "tokenizer.model")
    assert alone.decode(alone.encode("hello")) == "hello"


def test_a_written_model_is_the_model_it_was_written_from(train_sentencepiece) -> None:
    proto = train_sentencepiece(add_dummy_prefix=True, **PLAIN)
    model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    rows = []
    for index in range(model.vocab_size()):
        kinds = [(model.is_unknown, spm.UNKNOWN), (model.is_control, spm.CONTROL), (model.is_byte, spm.BYTE)]
        kind = next((kind for is_kind, kind in kinds if is_kind(index)), spm.NORMAL)
        rows.append((model.id_to_piece(index), model.get_score(index), kind))
    copy = sentencepiece.SentencePieceProcessor(model_proto=spm.write_proto(rows, 2, True))
    for text in ("hello world", "  two  spaces ", "你好 😀", "", "a\nb"):
        assert copy.encode(text) == model.encode(text)
        assert copy.decode(model.encode(text)) == text


def test_ids_out_of_range_are_left_out(prefixed: spm.SentencePieceBackend) -> None:
    assert prefixed.decode([-1, *prefixed.encode_batch(["hello"])[0], 10**6]) == "hello"
    assert prefixed.token(10**6) is None
    assert prefixed.token_id("no such piece") is None


def test_a_damaged_model_is_named() -> None:
    with pytest.raises(DataError, match=r"x/tokenizer\.model"):
        spm.SentencePieceBackend(b"\x00garbage", {}, "x/tokenizer.model")


def test_the_contents_of_tokens_make_the_text(internlm2_tokenizer: Tokenizer, prefixed: spm.SentencePieceBackend) -> None:
    contents = internlm2_tokenizer.contents()
    for name in ("<s>", "</s>", "<unk>", "<|plugin|>"):
        assert contents[internlm2_tokenizer.token_id(name)] is None
    for text in ("hello world", " \u4f60\u597d", "\U0001f600 \u00e9\n\t x  y", "\u2603"):
        assert b"".join(contents[index] or b"?" for index in internlm2_tokenizer.encode_within(text)).decode() == text
        later = prefixed.encode_runs([("a", False), (text, False)])[1]
        assert b"".join(prefixed.content(index) or b"?" for index in later).decode() == text
    assert prefixed.content(-1) is prefixed.content(10_000) is None
