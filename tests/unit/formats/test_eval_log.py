"""Evaluation logs: what is written is read back; damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats.eval_log import (
    Extracted,
    Header,
    MetricSpec,
    ModelRef,
    Sample,
    Tokens,
    log_paths,
    read_header,
    read_log,
    write_log,
)


def header(num_samples: int) -> Header:
    return Header(
        task="arithmetic",
        model=ModelRef(digest="abc"),
        dataset="numbers",
        dataset_hash="d",
        protocol={"name": "chat"},
        protocol_hash="p",
        metrics=[MetricSpec(name="exact_match")],
        num_samples=num_samples,
    )


SAMPLE = Sample(
    id="0",
    input="1 + 1?",
    target="2",
    outputs=["It is 2.\u2028Yes"],
    logprobs=[-0.1],
    extracted=[Extracted(rule="last number", text="2", start=6, end=7)],
    scores={"exact_match": 1.0},
    tokens=Tokens(prompt=9, completion=4),
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False)
samples = st.lists(
    st.builds(
        Sample,
        id=text,
        cluster=text,
        input=text,
        target=text,
        outputs=st.lists(text, max_size=3),
        logprobs=st.lists(numbers, max_size=3),
        scores=st.dictionaries(text, numbers, max_size=3),
        weights=st.dictionaries(text, numbers, max_size=3),
    ),
    max_size=5,
)


@given(samples)
@settings(max_examples=40)
def test_what_is_written_is_read_back(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("log") / "t.jsonl"
    write_log(path, header(len(found)), found)
    log = read_log(path)
    assert log.header == read_header(path) == header(len(found))
    assert list(log.samples) == found


def test_equal_logs_have_equal_bytes_also_after_reading(tmp_path: Path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_log(one, header(1), [SAMPLE])
    log = read_log(one)
    write_log(two, log.header, log.samples)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("cut", [1, 30, -1, -20])
def test_every_cut_is_noticed(tmp_path: Path, cut: int):
    path = tmp_path / "t.jsonl"
    write_log(path, header(2), [SAMPLE, SAMPLE])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"t\.jsonl"):
        read_log(path)


def test_a_cut_between_lines_is_noticed(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    write_log(path, header(2), [SAMPLE, SAMPLE])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="1 of 2 samples"):
        read_log(path)


def test_a_wrong_count_is_not_written(tmp_path: Path):
    with pytest.raises(DataError):
        write_log(tmp_path / "t.jsonl", header(2), [SAMPLE])
    assert not list(tmp_path.iterdir())


def test_a_future_format_asks_for_an_upgrade(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    raw = {**header(0).model_dump(), "format": 2, "news": 1}
    path.write_text(json.dumps(raw) + "\n")
    with pytest.raises(DataError, match="format 2") as caught:
        read_log(path)
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an evaluation log"),
        (b"hello\n", "not an evaluation log"),
        (b"[1]\n", "something else"),
        (b'{"lianlu": "conversations", "format": 1}\n', "holds conversations"),
        (b'{"lianlu": "eval-log", "format": 1}\n', "not a valid header: task"),
        (b"\xff\xfe\n", "not UTF-8"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_log(path)


def test_a_bad_sample_is_named_by_its_line(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    write_log(path, header(1), [SAMPLE])
    path.write_text(path.read_text().replace('"exact_match":1.0', '"exact_match":"good"'))
    with pytest.raises(DataError, match=r"line 2: not a valid sample: scores\.exact_match"):
        read_log(path)


def test_paths_of_a_folder_and_missing_ones(tmp_path: Path):
    with pytest.raises(DataError, match="no evaluation logs"):
        log_paths(tmp_path)
    with pytest.raises(DataError, match="no file"):
        read_log(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_log(tmp_path)
    write_log(tmp_path / "b.jsonl", header(0), [])
    write_log(tmp_path / "a.jsonl", header(0), [])
    assert [path.name for path in log_paths(tmp_path)] == ["a.jsonl", "b.jsonl"]
    assert log_paths(tmp_path / "a.jsonl") == [tmp_path / "a.jsonl"]
