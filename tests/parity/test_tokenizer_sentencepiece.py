"""SentencePiece models of each kind, against the sentencepiece library, over random text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again; 12345 times --------.",
    "def add(a, b):\n    return a + b\n\n\nclass Thing:\n\tpass\n",
    "你好，世界！今天天气很好，我们去公园散步吧。",
    "Ein Käse, ein Café und 😀 noch eins.",
]
IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
KINDS = {
    "internlm2": {"model_type": "bpe", "add_dummy_prefix": False, **IDENTITY},
    "llama2": {"model_type": "bpe", "add_dummy_prefix": True, "split_digits": True, **IDENTITY},
    "unigram": {"model_type": "unigram", "add_dummy_prefix": True, **IDENTITY},
    "t5": {"model_type": "unigram"},  # the library's own defaults: NFKC, white space squeezed
    "user-defined": {"model_type": "bpe", "user_defined_symbols": ["<|x|>", "  "], **IDENTITY},
}


Pair = tuple[Tokenizer, sentencepiece.SentencePieceProcessor]


def trained(kind: str, folder: Path) -> Pair:
    writer = io.BytesIO()
    options = {"vocab_size": 420, "byte_fallback": True, "character_coverage": 0.999, **KINDS[kind]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 25), model_writer=writer, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options
    )
    path = folder / "tokenizer.model"
    path.write_bytes(writer.getvalue())
    return Tokenizer.load(path), sentencepiece.SentencePieceProcessor(model_file=str(path))


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return trained(request.param, tmp_path_factory.mktemp("model"))


PIECES = st.sampled_from(
    [
        "The",
        " ",
        "  ",
        "\n",
        "\t",
        "12",
        "你好",
        "世",
        "😀",
        "👩‍🚀",
        "é",
        "ﬁ",
        "①",
        "\u2581",
        "--",
        "<s>",
        "</s>",
        "<unk>",
        "<0x41>",
        "<|x|>",
        "\x00",
    ]
)
TEXT = st.text() | st.lists(PIECES, max_size=20).map("".join)


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_ids_and_text_are_the_library_s(pair, text: str) -> None:
    ours, theirs = pair
    ids = theirs.encode(text)
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)


@given(texts=st.lists(TEXT, max_size=4))
@settings(max_examples=20, deadline=None)
def test_batches_are_the_library_s(pair, texts: list[str]) -> None:
    ours, theirs = pair
    assert ours.encode_batch(texts) == [theirs.encode(text) for text in texts]


def test_special_ids_are_the_library_s(pair) -> None:
    ours, theirs = pair
    assert (ours.bos_id, ours.eos_ids) == (theirs.bos_id(), (theirs.eos_id(),))
    assert ours.vocab_size == theirs.vocab_size()


@pytest.mark.parametrize("kind", ["internlm2", "llama2"])
def test_a_saved_model_loads_in_transformers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf", reason="transformers reads tokenizer.model only with protobuf")
    transformers = pytest.importorskip("transformers")
    ours, _ = trained(kind, tmp_path)
    ours.save(tmp_path / "saved")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in ("The quick brown fox", "你好，世界！", "def add(a, b):\n    return"):
        assert loaded.encode(text, add_special_tokens=False) == ours.encode(text)
