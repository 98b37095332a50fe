"""Task mmlu on a small archive of its own shape."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from lianlu.client.base import Scored
from lianlu.core.errors import ConfigError, DataError
from lianlu.eval.sources import Sources
from lianlu.eval.tasks.mmlu import MmluTask, build

FILES = {
    "data/dev/high_school_art_dev.csv": 'Red?,a,b,c,d,B\n"Blue,\ngreen? ",e,f,g,h,C\n',
    "data/test/high_school_art_test.csv": "Who? ,w,x,y,z,D\nWhy?,w,x,y,z,A\n",
    "data/dev/law_dev.csv": "Fine?,1,2,3,4,A\n",
    "data/test/law_test.csv": "Bail?,1,2,3,4,C\n",
}


def archive(folder: Path, files: dict[str, str]) -> Sources:
    (folder / "mmlu").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "mmlu" / "mmlu.zip", "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return Sources(benchmarks=folder)


def test_the_prompt_of_a_question(tmp_path: Path):
    task = build(MmluTask(), archive(tmp_path, FILES))
    requests = task.requests(task.items[0])
    assert requests[0].context == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "Red?\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n"
        "Blue,\ngreen?\nA. e\nB. f\nC. g\nD. h\nAnswer: C\n\n"
        "Who?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    assert [request.continuation for request in requests] == [" A", " B", " C", " D"]
    assert [item.id for item in task.items] == ["high_school_art/0", "high_school_art/1", "law/0"]


def test_the_most_likely_letter_is_the_answer(tmp_path: Path):
    task = build(MmluTask(), archive(tmp_path, FILES))
    scored = [Scored(value, 1, False) for value in (-2.0, -3.0, -2.5, -1.0)]
    assert task.score(task.items[0], scored).values == {"acc": 1.0}
    assert task.score(task.items[0], scored).extracted[0].text == "D"
    assert task.score(task.items[1], [Scored(-1.0, 1, False)] * 4).values == {"acc": 1.0}


def test_limit_shots_and_subjects(tmp_path: Path):
    sources = archive(tmp_path, FILES)
    task = build(MmluTask(limit=1, shots=0, subjects=["high_school_art"]), sources)
    assert [item.id for item in task.items] == ["high_school_art/0"]
    assert "Red?" not in task.requests(task.items[0])[0].context
    assert task.protocol_hash() != build(MmluTask(limit=1, shots=1, subjects=["high_school_art"]), sources).protocol_hash()


def test_an_unknown_subject_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="magic") as caught:
        build(MmluTask(subjects=["magic"]), archive(tmp_path, FILES))
    assert "law" in caught.value.hint


@pytest.mark.parametrize("name", ["data/test/law_test.csv", "data/dev/law_dev.csv"])
def test_a_row_of_another_shape_is_named(tmp_path: Path, name: str):
    with pytest.raises(DataError, match="row 1"):
        build(MmluTask(), archive(tmp_path, {**FILES, name: "Bail?,1,2,3,C\n"}))


def test_a_damaged_archive_is_named(tmp_path: Path):
    sources = archive(tmp_path, FILES)
    path = tmp_path / "mmlu" / "mmlu.zip"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"mmlu\.zip"):
        build(MmluTask(), sources)


def test_a_missing_dev_split_is_named(tmp_path: Path):
    files = {name: text for name, text in FILES.items() if name != "data/dev/law_dev.csv"}
    with pytest.raises(DataError, match="law_dev"):
        build(MmluTask(), archive(tmp_path, files))
