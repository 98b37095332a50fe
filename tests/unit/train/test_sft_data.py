"""The data of a run: nothing is lost or counted twice, a killed run goes on, stale examples are not used."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats.messages import Conversation, Message, write_conversations
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train import rendering, sft_data
from lianlu.train.conversations import Renderer
from lianlu.train.example_file import ExampleFile
from lianlu.train.rendering import Way
from lianlu.train.sft_data import SftData, Wanted, drop_data, open_data

Open = Callable[..., SftData]
FILES = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def good(number: int) -> str:
    return json.dumps({"instruction": f"q{number}", "output": f"the cat {number}"})


NO_JSON = ["{oops", "\ufeff{}", '{"a":' * 5000]
NO_OBJECT = ["[]", "3", '"text"', "null"]
HALF = ['{"instruction": "q"}', '{"output": "a"}', '{"odd": 1}']
NO_TEXT = [json.dumps({"instruction": "q", "output": value}) for value in ("", ["a"], True, None, {"text": "a"})]
BAD = st.sampled_from([*NO_JSON, *NO_OBJECT, *HALF, *NO_TEXT])


@pytest.fixture
def opened(checkpoint: Path, tokenizer: Tokenizer) -> Open:
    def open_it(
        data: Path | tuple[Path, ...],
        out: Path,
        held_out: float = 0.25,
        max_length: int = 60,
        is_main: bool = True,
        **changes: Any,
    ) -> SftData:
        way = Way(str(checkpoint), max_length, changes.get("cut", True))
        wanted = Wanted(data if isinstance(data, tuple) else (data,), changes.get("format", "auto"), held_out, way)
        return open_data(wanted, tokenizer, out, out / ".resume", is_main)

    return open_it


def names(examples: ExampleFile) -> list[str]:
    return [examples.name(index) for index in range(len(examples))]


def contents(examples: ExampleFile) -> list[Any]:
    return [(examples.name(i), examples.ids(i).tolist(), examples.mask(i).tolist()) for i in range(len(examples))]


def rejected(out: Path) -> list[dict[str, Any]]:
    path = out / "rejected.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def lines(path: Path, records: list[str], end: str = "\n") -> Path:
    path.write_bytes("".join(record + end for record in records).encode())
    return path


@FILES
@given(data=st.data(), blank=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\n \n"]))
def test_every_record_is_an_example_or_rejected_with_its_line(
    data: st.DataObject, blank: bool, end: str, opened: Open, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("mixture")
    kinds = data.draw(st.lists(st.booleans(), min_size=4, max_size=20).filter(lambda k: 2 * sum(k) >= len(k) and sum(k) > 3))
    records = [good(number) if is_good else data.draw(BAD) for number, is_good in enumerate(kinds)]
    path = lines(out / "a.jsonl", (["", ""] if blank else []) + records, end)
    found = opened(path, out)
    step, start = end.count("\n"), 1 + (2 * end.count("\n") if blank else 0)
    places = {start + step * number: is_good for number, is_good in enumerate(kinds)}
    listed = rejected(out)
    assert [record["line"] for record in listed] == [place for place, is_good in places.items() if not is_good]
    assert all(record["file"] == "a.jsonl" and record["reason"] for record in listed)
    expected = [f"a.jsonl:{place}" for place, is_good in places.items() if is_good]
    assert sorted(names(found.train) + names(found.held_out)) == sorted(expected)
    assert names(found.held_out) == expected[::4]
    figures = found.figures()
    assert sum(figures["rejected"].values()) == len(listed)
    assert figures["records"] == len(kinds)
    assert figures["tokens"] == int(found.train.lengths.sum())
    assert figures["answer_tokens"] == sum(int(found.train.mask(index).sum()) for index in range(len(found.train)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@FILES
@given(odd=st.lists(JSON, max_size=12), as_array=st.booleans())
def test_any_json_between_good_records_is_listed(
    odd: list[Any], as_array: bool, opened: Open, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("fuzz")
    values = [json.loads(good(number)) for number in range(14)]
    for number, value in enumerate(odd):
        values.insert(2 * number + 1, value)
    path = out / "a.json"
    path.write_text(json.dumps(values) if as_array else "".join(json.dumps(value) + "\n" for value in values))
    found = opened(path, out)
    assert len(found.train) + len(found.held_out) == 14
    key = "index" if as_array else "line"
    assert [record[key] for record in rejected(out)] == [2 * n + 1 + (not as_array) for n in range(len(odd))]


def test_a_killed_rendering_goes_on_where_it_was(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [good(number) if number % 5 else '{"odd": 1}' for number in range(100)]
    path = lines(tmp_path / "a.jsonl", records)
    whole = opened(path, tmp_path / "whole")
    monkeypatch.setattr(rendering, "CHUNK_RECORDS", 8)
    monkeypatch.setattr(sft_data, "COMMIT_S", 0.0)
    outcome, done = Renderer.outcome, []
    for kill_at in (3, 30, 17, 1000):

        def killed(self: Renderer, source: Any, raw: Any, kill_at: int = len(done) + kill_at) -> Any:
            done.append(raw.place)
            if len(done) == kill_at:
                raise KeyboardInterrupt
            return outcome(self, source, raw)

        monkeypatch.setattr(Renderer, "outcome", killed)
        try:
            found = opened(path, tmp_path / "broken")
        except KeyboardInterrupt:
            continue
    assert 100 <= len(done) <= 100 + 3 * 8
    for one, other in ((found.train, whole.train), (found.held_out, whole.held_out)):
        assert contents(one) == contents(other)
    assert found.figures() == whole.figures()
    assert found.questions == whole.questions
    assert rejected(tmp_path / "broken") == rejected(tmp_path / "whole")


def test_finished_examples_are_found_again_and_stale_ones_are_not(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines(tmp_path / "a.jsonl", [good(number) for number in range(20)] + ["{oops"])
    first = opened(path, tmp_path / "out")
    outcome, done = Renderer.outcome, []

    def counted(self: Renderer, source: Any, raw: Any) -> Any:
        done.append(raw.place)
        return outcome(self, source, raw)

    monkeypatch.setattr(Renderer, "outcome", counted)
    assert opened(path, tmp_path / "out").figures() == first.figures()
    assert done == []
    assert opened(path, tmp_path / "out", max_length=20).figures()["notes"]["cut"] > 0
    assert len(done) == 21
    lines(path, [good(number) for number in range(30)])
    assert opened(path, tmp_path / "out", max_length=20).figures()["records"] == 30
    assert not (tmp_path / "out" / "rejected.jsonl").exists()
    done.clear()
    next(iter((tmp_path / "out" / ".resume" / "examples").glob("train.ids"))).write_bytes(b"")
    assert opened(path, tmp_path / "out", max_length=20).figures()["records"] == 30
    assert len(done) == 30
    drop_data(tmp_path / "out" / ".resume")
    assert not (tmp_path / "out" / ".resume" / "examples").exists()


def test_other_processes_wait_for_the_main_one(opened: Open, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [good(number) for number in range(20)])
    got: list[SftData] = []
    waiting = threading.Thread(target=lambda: got.append(opened(path, tmp_path / "out", is_main=False)))
    waiting.start()
    main = opened(path, tmp_path / "out")
    waiting.join(timeout=20)
    assert contents(got[0].train) == contents(main.train)


def test_mostly_wrong_data_is_refused_with_the_main_reasons(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [good(0), *['{"instruction": "q", "output": ""}'] * 5, "{oops", good(1), '{"odd": 1}']
    path = lines(tmp_path / "a.jsonl", records)
    with pytest.raises(DataError, match=r"7 of 9 records of .* are wrong: 5 an empty answer \(first: a.jsonl:2\), 1 ") as caught:
        opened(path, tmp_path / "out")
    assert "read as alpaca" in caught.value.hint
    assert len(rejected(tmp_path / "out")) == 7
    monkeypatch.setattr(sft_data, "JUDGED_AFTER", 4)
    monkeypatch.setattr(rendering, "CHUNK_RECORDS", 2)
    with pytest.raises(DataError, match="3 of 4 records"):
        opened(path, tmp_path / "early")


def test_answers_that_are_only_unwanted_do_not_count_as_wrong(opened: Open, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    records = [json.dumps({"messages": talk, "label": number % 5 == 0}) for number in range(20)]
    found = opened(lines(tmp_path / "a.jsonl", records), tmp_path)
    assert found.figures()["rejected"] == {"its label is false: an answer that was not wanted": 16}
    assert (len(found.train), len(found.held_out)) == (3, 1)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([good(0)], "leaves no training examples: it holds 1 record$"),
        ([good(0), '{"odd": 1}'], r"leaves no training examples: 1 no output|1 no instruction"),
    ],
)
def test_too_little_data_is_refused(opened: Open, tmp_path: Path, records: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(lines(tmp_path / "a.jsonl", records), tmp_path)
    assert "give more data" in caught.value.hint


def test_a_folder_brings_its_own_division(opened: Open, tmp_path: Path) -> None:
    def talks(count: int) -> list[Conversation]:
        turns = [Message(role="user", content="q"), Message(role="assistant", content="a")]
        return [Conversation(id=f"t{number}", messages=turns) for number in range(count)]

    (tmp_path / "data").mkdir()
    write_conversations(tmp_path / "data" / "train.jsonl", talks(3))
    write_conversations(tmp_path / "data" / "held_out.jsonl", talks(2))
    found = opened(tmp_path / "data", tmp_path / "out")
    assert names(found.train) == ["t0 (train.jsonl:2)", "t1 (train.jsonl:3)", "t2 (train.jsonl:4)"]
    assert names(found.held_out) == ["t0 (held_out.jsonl:2)", "t1 (held_out.jsonl:3)"]
    assert found.questions == ["q", "q"]


def test_files_of_a_folder_are_one_collection_and_odd_ones_are_listed(opened: Open, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines(data / "a.jsonl", [good(number) for number in range(3)])
    (data / "b.json").write_text(json.dumps([{"question": f"q{number}", "answer": number} for number in range(3)]))
    (data / "c.json").write_text('{"version": 1}')
    found = opened(data, tmp_path / "out", held_out=0.5)
    assert names(found.held_out) == ["a.jsonl:1", "a.jsonl:3", "b.json[1]"]
    assert names(found.train) == ["a.jsonl:2", "b.json[0]", "b.json[2]"]
    assert found.figures()["format"] == "alpaca, pairs"
    (listed,) = rejected(tmp_path / "out")
    assert listed["file"] == "c.json"
    assert "version" in listed["reason"]


def test_a_text_is_cut_into_pieces_all_of_which_are_used(opened: Open, tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = "".join(f"the old cat {number} sees a small dog.\n" for number in range(60))
    (tmp_path / "book.txt").write_text(text)
    found = opened(tmp_path / "book.txt", tmp_path, held_out=0.2, max_length=50)
    parts = []
    for examples in (found.train, found.held_out):
        ids = [token for i in range(len(examples)) for token in examples.ids(i)[examples.mask(i)].tolist()]
        assert ids[-1] == tokenizer.end_of_text
        parts.append(tokenizer.decode(ids[:-1]))
        assert set(examples.lengths[:-1].tolist()) == {50}
    assert "".join(parts) == text
    assert 0.15 < len(parts[1]) / len(text) <= 0.2
    assert names(found.train)[:2] == ["book.txt", "book.txt, piece 2"]


def test_the_parts_of_one_long_text_stay_together(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lianlu.formats.examples.files.PART_BYTES", 40)
    (tmp_path / "data").mkdir()
    for name in "abc":
        (tmp_path / "data" / f"{name}.txt").write_text(f"the cat {name} sees a dog\n" * 9)
    found = opened(tmp_path / "data", tmp_path / "out", held_out=0.5)
    assert {name.split(",")[0] for name in names(found.held_out)} == {"a.txt", "c.txt"}
    assert {name.split(",")[0] for name in names(found.train)} == {"b.txt"}
    assert len(found.train) > 1


def test_several_places_are_one_after_the_other(tmp_path: Path, opened: Open) -> None:
    pairs, alpaca = tmp_path / "pairs.jsonl", tmp_path / "alpaca.json"
    pairs.write_text("".join(json.dumps({"question": f"who {n}?", "answer": f"the cat {n}"}) + "\n" for n in range(8)))
    alpaca.write_text(json.dumps([{"instruction": f"name {n}", "output": f"a dog {n}"} for n in range(8)]))
    data = opened((pairs, alpaca), tmp_path / "out")
    together = names(data.train) + names(data.held_out)
    assert len(together) == 16
    assert (
        sum(name.startswith("pairs.jsonl:") for name in together)
        == sum(name.startswith("alpaca.json[") for name in together)
        == 8
    )
    with pytest.raises(DataError, match="there is no"):
        opened((pairs, tmp_path / "absent.jsonl"), tmp_path / "other")


def test_files_of_one_name_are_told_apart(tmp_path: Path, opened: Open) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lines(tmp_path / name / "train.jsonl", [good(number) for number in range(3)])
    data = opened((tmp_path / "one" / "train.jsonl", tmp_path / "two" / "train.jsonl"), tmp_path / "out")
    assert names(data.held_out) == ["train.jsonl:1", "two/train.jsonl:2"]
