"""Task needle: the text has its length, and the fact lies at its depth."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.client.base import Reply
from lianlu.core.errors import ConfigError
from lianlu.eval.sources import Sources
from lianlu.eval.tasks.needle import NeedleTask, build, bury
from lianlu.formats.messages import Message


def reply(text: str) -> list[Reply]:
    return [Reply(Message(role="assistant", content=text), "stop")]


@given(st.integers(200, 4000), st.floats(0, 100))
def test_the_needle_lies_at_its_depth(num_characters, depth):
    hay = (f"Sentence {number} is here." for number in itertools.count())
    text = bury(hay, "NEEDLE", num_characters, depth)
    assert text.count("NEEDLE") == 1
    assert abs(len(text) - num_characters) < 60
    before, after = (len(part) for part in text.split("NEEDLE"))
    assert abs(before / (before + after) - depth / 100) * num_characters < 60


def test_the_grid_has_every_length_and_depth_once():
    task = build(NeedleTask(lengths=[64, 128], depths=[0, 50, 100], repeats=2), Sources())
    assert len(task.items) == len({item.id for item in task.items}) == 12
    for item in task.items:
        prompt = item.fields["prompt"]
        assert item.target in prompt
        assert sum(character.isdigit() for character in prompt) == 5
        assert abs(len(prompt) - 4 * item.fields["length"]) < 250
    assert [message.content for message in task.requests(task.items[0])[0].messages] == [task.items[0].fields["prompt"]]


def test_equal_seeds_give_equal_texts_and_others_others():
    config = NeedleTask(lengths=[64])
    assert build(config, Sources(seed=1)).dataset_hash() == build(config, Sources(seed=1)).dataset_hash()
    assert build(config, Sources(seed=1)).dataset_hash() != build(config, Sources(seed=2)).dataset_hash()


def test_the_number_has_to_be_in_the_reply():
    task = build(NeedleTask(lengths=[64], depths=[50]), Sources())
    item = task.items[0]
    found = task.score(item, reply(f"It is {item.target}."))
    assert found.values == {"found": 1.0}
    assert (found.extracted[0].start, found.extracted[0].end) == (6, 11)
    with_comma = f"{item.target[:2]},{item.target[2:]}"
    assert task.score(item, reply(with_comma)).values == {"found": 1.0}
    assert task.score(item, reply("I do not know")).values == {"found": 0.0}


def test_given_documents_make_the_haystack(tmp_path: Path):
    (tmp_path / "needle").mkdir()
    rows = [{"text": "One thing. Another thing.\nA third"}, {"text": "  "}]
    (tmp_path / "needle" / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = build(NeedleTask(lengths=[64], haystack="documents"), Sources(benchmarks=tmp_path))
    assert "Another thing" in task.items[0].fields["prompt"]


@pytest.mark.parametrize("fields", [{"lengths": [3]}, {"depths": [101]}, {"depths": [-1]}])
def test_impossible_grids_are_refused(fields):
    with pytest.raises(ConfigError, match="needle"):
        build(NeedleTask(**fields), Sources())
