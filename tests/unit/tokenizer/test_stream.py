"""A stream gives in pieces what decoding gives at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Library

from lianlu.tokenizer.backend import Loaded
from lianlu.tokenizer.fast import FastBackend
from lianlu.tokenizer.tokenizer import Tokenizer


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(index) for index in ids), stream.flush()]


@given(st.lists(st.integers(0, 599), max_size=60))
@settings(max_examples=120, deadline=None)
def test_random_ids_of_a_byte_level_vocabulary(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@given(st.lists(st.integers(0, 405), max_size=60))
@settings(max_examples=120, deadline=None)
def test_random_ids_of_a_sentencepiece_vocabulary(internlm2_tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(internlm2_tokenizer, ids)) == internlm2_tokenizer.decode(ids)


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """A tokenizer.json as Llama 2 has it: byte tokens, a space that only the first word loses."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "b", "▁b", "好"]
    library = Library(models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(steps)
    library.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    return Tokenizer(Loaded("test", FastBackend(library)))


@given(st.lists(st.one_of(st.integers(0, 263), st.sampled_from([3 + byte for byte in "好😀é".encode()])), max_size=40))
@settings(max_examples=120, deadline=None)
def test_random_ids_with_byte_fallback(byte_fallback: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(byte_fallback, ids)) == byte_fallback.decode(ids)


@given(st.text(alphabet="aé你😀👩🏽‍🚀 \n", max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    pieces = streamed(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the dog")
    pieces = streamed(tokenizer, ids)
    assert pieces == [*(tokenizer.decode([index]) for index in ids), ""]


def test_control_tokens_give_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|im_end|>b<|im_start|>", specials=True)
    assert "".join(streamed(tokenizer, ids)) == "ab"


def test_broken_bytes_come_at_the_end(tokenizer: Tokenizer) -> None:
    first = tokenizer.encode("你")[0] if len(tokenizer.encode("你")) > 1 else tokenizer.encode("龘")[0]
    assert streamed(tokenizer, [first])[0] == ""
    assert streamed(tokenizer, [first])[1] == "\ufffd"
