"""Records become examples, or a reason why not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lianlu.core.errors import DataError
from lianlu.formats.examples.record import Raw
from lianlu.formats.examples.sources import Source
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.conversations import CUT, Outcome, Piece, Renderer, require_abilities

CHAT = Source(Path("talks.jsonl"), "talks.jsonl", "openai", by_line=True)
TEXT = Source(Path("texts.jsonl"), "texts.jsonl", "text", by_line=True)


def talk(*texts: str, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)], **fields}


def outcome(tokenizer: Tokenizer, record: Any, source: Source = CHAT, max_length: int = 200, cut: bool = True) -> Outcome:
    return Renderer(tokenizer, max_length, cut).outcome(source, Raw(7, json.dumps(record)))


def learnt(tokenizer: Tokenizer, piece: Piece) -> str:
    return tokenizer.decode(piece.ids[piece.mask].tolist(), skip_specials=False)


def shown(tokenizer: Tokenizer, piece: Piece) -> str:
    return tokenizer.decode(piece.ids.tolist(), skip_specials=False)


def test_answers_and_their_end_tokens_are_learnt_and_nothing_else(tokenizer: Tokenizer) -> None:
    found = outcome(tokenizer, talk("who runs?", "the cat", "and now?", "a dog", "bye"))
    (piece,) = found.pieces
    assert learnt(tokenizer, piece) == "the cat<|im_end|>a dog<|im_end|>"
    assert "who runs?" in shown(tokenizer, piece)
    assert shown(tokenizer, piece).endswith("a dog<|im_end|>")
    assert (found.question, found.notes, found.rejection) == ("who runs?", (), None)


def test_an_example_is_named_by_itself_and_by_its_place(tokenizer: Tokenizer) -> None:
    assert outcome(tokenizer, talk("who?", "cat")).name == "talks.jsonl:7"
    assert outcome(tokenizer, talk("who?", "cat", id="t1")).name == "t1 (talks.jsonl:7)"


def test_long_conversations_are_cut_or_left_out(tokenizer: Tokenizer) -> None:
    long = talk("who?", "the cat " * 30)
    cut = outcome(tokenizer, long, max_length=24)
    assert len(cut.pieces[0].ids) == 25
    assert cut.notes == (CUT,)
    dropped = outcome(tokenizer, long, max_length=24, cut=False)
    assert dropped.rejection is not None
    assert dropped.pieces == ()
    assert (dropped.rejection.reason, dropped.rejection.is_wrong, dropped.is_understood) == ("too long", False, True)


def test_endless_conversations_cost_no_more_than_what_is_kept_of_them(tokenizer: Tokenizer) -> None:
    found = outcome(tokenizer, talk(*["who?", "cat"] * 3000), max_length=30)
    assert found.notes == (CUT,)
    assert found.pieces[0].ids.tolist() == outcome(tokenizer, talk(*["who?", "cat"] * 20), max_length=30).pieces[0].ids.tolist()
    dropped = outcome(tokenizer, talk(*["who?", "cat"] * 3000), max_length=30, cut=False)
    assert dropped.rejection is not None
    assert dropped.rejection.reason == "too long"


def test_what_follows_the_last_answer_does_not_make_a_conversation_too_long(tokenizer: Tokenizer) -> None:
    found = outcome(tokenizer, talk("who?", "cat", "the cat " * 60), max_length=40, cut=False)
    assert learnt(tokenizer, found.pieces[0]) == "cat<|im_end|>"
    assert found.notes == ()


def test_a_cut_before_the_answer_leaves_nothing_to_learn(tokenizer: Tokenizer) -> None:
    found = outcome(tokenizer, talk("who? " * 50, "cat"), max_length=24)
    assert found.rejection is not None
    assert found.rejection.reason == "no answer to learn within max_length"
    assert not found.rejection.is_wrong


def test_a_turn_of_weight_zero_is_context(tokenizer: Tokenizer) -> None:
    record = talk("who?", "cat", "and?", "dog", "or?", "tree")
    record["messages"][3]["weight"] = 0
    (piece,) = outcome(tokenizer, record).pieces
    assert learnt(tokenizer, piece) == "cat<|im_end|>tree<|im_end|>"
    assert "dog" in shown(tokenizer, piece)
    for index in (1, 3, 5):
        record["messages"][index]["weight"] = 0
    nothing = outcome(tokenizer, record)
    assert nothing.rejection is not None
    assert nothing.rejection.reason == "no answer to learn"


def test_records_that_are_wrong_or_refused_say_why(tokenizer: Tokenizer) -> None:
    wrong = outcome(tokenizer, {"text": "no messages"})
    assert wrong.rejection is not None
    assert (wrong.is_understood, wrong.rejection.is_wrong, wrong.rejection.reason) == (False, True, "no messages")
    assert wrong.rejection.record == {"text": "no messages"}
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"x": deep}
    call = {"function": {"name": "f", "arguments": deep}}
    refused = outcome(tokenizer, {"messages": [talk("who?")["messages"][0], {"role": "assistant", "tool_calls": [call]}]})
    assert refused.rejection is not None
    assert refused.rejection.is_wrong


def test_every_token_of_a_document_is_a_target_once(tokenizer: Tokenizer) -> None:
    text = "the old cat sees a small dog. " * 9
    wanted = [*tokenizer.encode(text), tokenizer.end_of_text]
    for length in (1, 7, len(wanted) - 1, len(wanted), 1000):
        found = outcome(tokenizer, {"text": text, "id": "d"}, TEXT, max_length=length)
        assert found.name == "d (texts.jsonl:7)"
        assert [token for piece in found.pieces for token in piece.ids[piece.mask].tolist()] == wanted
        assert all(len(piece.ids) <= length + 1 and not piece.mask[0] for piece in found.pieces)
        assert [len(piece.ids) for piece in found.pieces[:-1]] == [length + 1] * (len(found.pieces) - 1)
        assert found.pieces[0].ids[0] == tokenizer.end_of_text
        for before, after in itertools.pairwise(found.pieces):
            assert before.ids[-1] == after.ids[0]


def test_a_document_that_continues_has_no_end_yet(tokenizer: Tokenizer) -> None:
    renderer = Renderer(tokenizer, 100, True)
    first = renderer.outcome(TEXT, Raw(0, {"text": "the cat"}, continues=True))
    last = renderer.outcome(TEXT, Raw(1, {"text": "the cat"}))
    assert first.continues
    assert not last.continues
    assert first.pieces[0].ids.tolist() == last.pieces[0].ids.tolist()[:-1]
    assert last.pieces[0].ids[-1] == tokenizer.end_of_text


def test_a_long_text_is_encoded_in_blocks_that_lose_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lianlu.train.conversations._BLOCK_CHARS", 50)
    for text in ("the old cat sees\n" * 20, "x" * 333, "  \n\n" * 60 + "a", "the cat 你好 " * 30):
        found = outcome(tokenizer, {"text": text}, TEXT, max_length=64)
        ids = np.concatenate([piece.ids[piece.mask] for piece in found.pieces]).tolist()
        assert tokenizer.decode(ids[:-1]) == text


def test_what_a_tokenizer_cannot_write_is_told_before_anything_is_read(tokenizer: Tokenizer) -> None:
    require_abilities(tokenizer, [CHAT, TEXT])

    class Mute:
        has_chat_template, end_of_text = False, None

    mute: Any = Mute()
    with pytest.raises(DataError, match="no chat template") as caught:
        require_abilities(mute, [CHAT])
    assert "instruct model" in caught.value.hint
    with pytest.raises(DataError, match="ends a text"):
        require_abilities(mute, [TEXT])
