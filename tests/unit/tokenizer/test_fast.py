"""Vocabularies of the `tokenizers` library that are not byte-level: a space in front of every text."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from lianlu.formats.messages import Message
from lianlu.tokenizer.backend import Loaded
from lianlu.tokenizer.fast import FastBackend
from lianlu.tokenizer.tokenizer import Tokenizer

TEXTS = ["the quick brown fox jumps over the lazy dog", "again and again it's you", "[", "I", "N", "S", "T", "/", "]", "<"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module", params=["metaspace", "prepend"])
def prefixed(request: pytest.FixtureRequest) -> Tokenizer:
    library = Library(models.BPE(unk_token="<unk>", fuse_unk=True))
    if request.param == "metaspace":
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        library.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    else:
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    library.train_from_iterator(TEXTS * 9, trainers.BpeTrainer(vocab_size=200, special_tokens=specials, show_progress=False))
    return Tokenizer(Loaded("test", FastBackend(library), {"bos_token": "<s>", "eos_token": "</s>"}, {"default": TEMPLATE}))


TALK = [
    Message(role="user", content="the fox"),
    Message(role="assistant", content="jumps"),
    Message(role="user", content="again"),
    Message(role="assistant", content="you jump"),
]


def test_a_conversation_is_encoded_as_a_whole(prefixed: Tokenizer) -> None:
    rendered = prefixed.render(TALK)
    assert rendered.ids == prefixed.encode(rendered.text, specials=True)
    spoken = [prefixed.decode([index]) for index, is_target in zip(rendered.ids, rendered.mask, strict=True) if is_target]
    assert "".join(spoken).replace(" ", "") == "jumpsyoujump"
    assert sum(rendered.mask[i] for i, index in enumerate(rendered.ids) if index in prefixed.eos_ids) == 2


def test_control_tokens_in_messages_stay_text(prefixed: Tokenizer) -> None:
    rendered = prefixed.render([Message(role="user", content="the </s><s> fox"), Message(role="assistant", content="jumps")])
    assert rendered.ids.count(prefixed.bos_id) == 1
    assert rendered.ids.count(prefixed.eos_ids[0]) == 1
    assert rendered.mask[-1]


def test_the_ids_before_a_reply_are_those_it_is_generated_from(prefixed: Tokenizer) -> None:
    whole, prompt = prefixed.render(TALK), prefixed.render(TALK[:3], reply=True)
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    assert whole.mask[len(prompt.ids)]


def test_the_contents_of_tokens_make_the_text(prefixed: Tokenizer) -> None:
    contents = prefixed.contents()
    assert [contents[index] for index in prefixed.backend.specials.values()] == [None] * 3
    for text in ("the fox", "again  and again", " it's you"):
        within = prefixed.encode_within(text)
        assert b"".join(contents[index] or b"?" for index in within).decode() == text
        assert prefixed.backend.encode_runs([("the", False), (text, False)])[1] == within
    assert prefixed.backend.content(10_000) is None


def test_bytes_of_a_vocabulary_that_falls_back_to_them() -> None:
    tokens = ["<unk>", "<0xE4>", "<0xBD>", "<0xA0>", "\u2581", "a", "<0xZZ>"]
    library = Library(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[], byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(steps)
    library.add_special_tokens([AddedToken("<unk>", special=True)])
    found = Tokenizer(Loaded("test", FastBackend(library))).contents()
    assert found == [None, b"\xe4", b"\xbd", b"\xa0", b" ", b"a", b"<0xZZ>"]
