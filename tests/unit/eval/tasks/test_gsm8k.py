"""Task gsm8k on a small set of its own shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.client.base import Reply
from lianlu.core.errors import ConfigError, DataError
from lianlu.eval.sources import Sources
from lianlu.eval.tasks.gsm8k import Gsm8kTask, build, extract, normal
from lianlu.formats.messages import Message


def write(folder: Path, name: str, count: int) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"{name} {n}?", "answer": f"work {n}\n#### {n}"} for n in range(count)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    write(tmp_path / "gsm8k", "train", 9)
    write(tmp_path / "gsm8k", "test", 4)
    return Sources(benchmarks=tmp_path)


def test_the_prompt_is_shots_and_question(sources: Sources):
    task = build(Gsm8kTask(shots=2, limit=3), sources)
    assert len(task.items) == 3
    request = task.requests(task.items[1])[0]
    *shots, last = request.prompt.split("\n\n")
    assert last == "Question: test 1?\nAnswer:"
    assert all(shot.startswith("Question: train ") and "\nAnswer: work " in shot for shot in shots)
    assert len(shots) == 2
    assert request.sampling.stop == ("Question:", "</s>", "<|im_end|>")


def test_in_chat_the_question_is_a_users_turn(sources: Sources):
    alone = build(Gsm8kTask(shots=0, chat=True), sources)
    asked = alone.requests(alone.items[1])[0]
    assert [(message.role, message.content) for message in asked.messages] == [("user", "test 1?")]
    shown = build(Gsm8kTask(shots=2, chat=True), sources)
    assert shown.requests(shown.items[1])[0].messages[0].content == shown.items[1].fields["prompt"]
    assert alone.protocol["name"] != build(Gsm8kTask(shots=0), sources).protocol["name"]


def test_a_limit_does_not_change_the_shots(sources: Sources):
    whole, part = build(Gsm8kTask(shots=3), sources), build(Gsm8kTask(shots=3, limit=2), sources)
    assert list(part.items) == list(whole.items[:2])
    assert whole.items[0].fields["prompt"] != whole.items[1].fields["prompt"].replace("test 1", "test 0")


@pytest.mark.parametrize(("text", "strict", "flexible"), [
    ("work\n#### 3", 1.0, 1.0), ("so it is 3.", 0.0, 1.0), ("#### 3 and then 4", 1.0, 0.0), ("#### $3", 0.0, 1.0), ("", 0.0, 0.0),
    ("#### 3\n\nQuestion: next?\nAnswer: #### 5", 1.0, 1.0), ("#### 3.\n", 1.0, 1.0), ("it is 3.0", 0.0, 0.0),
])  # fmt: skip
def test_both_extractions(sources: Sources, text: str, strict: float, flexible: float):
    task = build(Gsm8kTask(shots=0), sources)
    score = task.score(task.items[3], [Reply(Message(role="assistant", content=text), "stop")])
    assert score.values == {"exact_match_strict": strict, "exact_match_flexible": flexible}
    assert score.extracted == extract(text.partition("Question:")[0])
    assert {one.rule for one in score.extracted} <= {"strict-match", "flexible-extract", "none"}


def test_what_is_ignored_in_an_answer():
    assert normal("long work\n#### $1,234.") == "1234"


def test_more_shots_than_examples(sources: Sources):
    with pytest.raises(ConfigError, match="10 shots of 9"):
        build(Gsm8kTask(shots=10), sources)


def test_without_data(tmp_path: Path):
    with pytest.raises(DataError, match=r"test\.jsonl"):
        build(Gsm8kTask(), Sources(benchmarks=tmp_path))
