"""Conversations become examples, and what is left out is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.formats.messages import Conversation, Message, write_conversations
from lianlu.kernels.cross_entropy import IGNORE
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.conversations import make_examples, read_split, require_examples


def talk(name: str, *texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(id=name, messages=[Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)])


def trained_text(tokenizer: Tokenizer, targets: list[int]) -> str:
    return tokenizer.decode([t for t in targets if t != IGNORE], skip_specials=False)


def test_answers_and_their_end_tokens_are_learnt_and_nothing_else(tokenizer: Tokenizer) -> None:
    examples = make_examples(tokenizer, [talk("a", "who runs?", "the cat", "and now?", "a dog")], max_length=200, cut=True)
    inputs, targets = examples.segments[0].inputs, examples.segments[0].targets
    assert trained_text(tokenizer, targets.tolist()) == "the cat<|im_end|>a dog<|im_end|>"
    assert "who runs?" in tokenizer.decode(inputs.tolist(), skip_specials=False)
    assert not examples.skipped


def test_long_conversations_are_cut_or_dropped_and_counted(tokenizer: Tokenizer) -> None:
    talks = [talk("a", "who?", "the cat " * 30), talk("b", "who?", "a dog")]
    cut = make_examples(tokenizer, talks, max_length=24, cut=True)
    assert cut.segments[0].num_tokens == 24
    assert dict(cut.skipped) == {"cut": 1}
    dropped = make_examples(tokenizer, talks, max_length=24, cut=False)
    assert [c.id for c in dropped.source] == ["b"]
    assert dict(dropped.skipped) == {"too long": 1}


def test_a_cut_before_the_answer_leaves_nothing_to_learn(tokenizer: Tokenizer) -> None:
    talks = [talk("a", "who? " * 50, "cat"), talk("b", "only a question")]
    examples = make_examples(tokenizer, talks, max_length=24, cut=True)
    assert examples.segments == []
    assert dict(examples.skipped) == {"cut": 1, "no answer to learn": 2}
    with pytest.raises(DataError, match="1 cut, 2 no answer to learn"):
        require_examples(examples, "training", Path("x"))


def test_the_first_examples_fit_the_limit_and_are_never_none(tokenizer: Tokenizer) -> None:
    examples = make_examples(tokenizer, [talk(str(i), "who?", "cat") for i in range(5)], max_length=99, cut=True)
    length = examples.lengths[0]
    assert len(examples.first(2 * length)) == 2
    assert len(examples.first(1)) == 1
    assert len(examples.first(10**6)) == 5


def test_one_file_is_split_the_same_way_each_time(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    write_conversations(path, (talk(str(i), "q", "a") for i in range(10)))
    train, held_out = read_split(path, 0.2)
    assert [c.id for c in held_out] == ["0", "5"]
    assert [c.id for c in train] == ["1", "2", "3", "4", "6", "7", "8", "9"]


def test_a_folder_brings_its_own_split(tmp_path: Path) -> None:
    write_conversations(tmp_path / "train.jsonl", [talk("t", "q", "a")])
    with pytest.raises(DataError, match=r"held_out\.jsonl"):
        read_split(tmp_path, 0.2)
    write_conversations(tmp_path / "held_out.jsonl", [talk("h", "q", "a")])
    assert [[c.id for c in part] for part in read_split(tmp_path, 0.2)] == [["t"], ["h"]]
