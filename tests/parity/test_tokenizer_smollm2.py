"""The vocabulary of the embedded model's GGUF, against transformers and against the pipeline of its own tokenizer.json."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import pre_tokenizers

from lianlu.formats.messages import Message
from lianlu.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "The capital of France is Paris.",
    "def f(x):\n    return {'a': x**2}  # square\n\n\nclass A:\n\tpass\n",
    "It's 1234.5 km, isn't it? Cost: $9.99 (x2)",
    "你好，世界！今天是星期天。",
    "Grüße, naïve café — “quotes” … 😀👩‍👩‍👧",
    "   leading and trailing   ",
    "tabs\tand\r\nwindows\r\n",
    "<|im_start|>user\nhi<|im_end|>",
    "",
]


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> Tokenizer:
    return Tokenizer.load(smollm2)


@pytest.fixture(scope="module")
def theirs(smollm2: Path):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(ours: Tokenizer, theirs, text: str) -> None:
    ids = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, specials=True) == ids
    assert ours.decode(ids, skip_specials=False) == theirs.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def test_special_ids_are_those_of_transformers(ours: Tokenizer, theirs) -> None:
    assert ours.bos_id == theirs.bos_token_id
    assert ours.eos_ids[0] == theirs.eos_token_id
    assert ours.vocab_size == len(theirs)


TALK = [
    Message(role="user", content="What is 12 + 30? 你好"),
    Message(role="assistant", content="It's 42.\n\n```python\nprint(12 + 30)\n```"),
    Message(role="user", content="Thanks! 😀"),
    Message(role="assistant", content="You're welcome."),
]


@pytest.mark.parametrize("messages", [TALK, [Message(role="system", content="Be brief."), *TALK], TALK[:1]])
@pytest.mark.parametrize("reply", [False, True])
def test_conversations_are_those_of_transformers(ours: Tokenizer, theirs, messages: list[Message], reply: bool) -> None:
    rows = [{"role": message.role, "content": message.content} for message in messages]
    rendered = ours.render(messages, reply=reply)
    assert rendered.text == theirs.apply_chat_template(rows, tokenize=False, add_generation_prompt=reply)
    assert rendered.ids == theirs.apply_chat_template(rows, return_dict=False, add_generation_prompt=reply)


@pytest.fixture(scope="module")
def original(ours: Tokenizer) -> Library:
    """SmolLM2's published pipeline (single digits, then GPT-2's pattern) over the same vocabulary."""
    library = Library.from_str(ours.backend.files()["tokenizer.json"].decode())
    digits = pre_tokenizers.Digits(individual_digits=True)
    library.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return library


def bytes_to_letters() -> dict[int, str]:
    """The letters by which GPT-2's vocabulary writes bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


PIECES = st.sampled_from(
    ["a", "The", "  ", " ", "\n", "\t", "1", "23", "½", "٣", "你好", "😀", "'s", "'S", "!", "--", "é", "\x00", "x1y2"]
)


@given(st.text() | st.lists(PIECES, max_size=30).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_text_as_the_published_tokenizer_has_it(ours: Tokenizer, original: Library, text: str) -> None:
    ids = ours.encode(text, specials=True)
    assert ids == original.encode(text, add_special_tokens=False).ids
    absent = {byte for byte, letter in bytes_to_letters().items() if ours.token_id(letter) is None}
    assert len(absent) < 50  # control characters, and bytes that no assigned character has
    assert ours.decode(ids, skip_specials=False) == text or absent & set(text.encode())


def test_a_saved_copy_is_the_same_in_transformers(ours: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours.save(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert loaded.encode(text, add_special_tokens=False) == ours.encode(text, specials=True)
    assert (loaded.bos_token_id, loaded.eos_token_id) == (ours.bos_id, ours.eos_ids[0])
    assert Tokenizer.load(tmp_path).eos_ids == ours.eos_ids
