"""The files that training data consists of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.formats.documents import Document, write_documents
from lianlu.formats.examples.record import RecordError
from lianlu.formats.examples.sources import Source, find_sources, rough_bytes
from lianlu.formats.messages import Conversation, Message, write_conversations

ALPACA = '{"instruction": "q", "output": "a"}\n'
SHARE = json.dumps([{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])


def told(sources: list[Source]) -> list[tuple[str, str, str]]:
    return [(source.name, source.format, source.part) for source in sources]


def test_a_file_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ALPACA)
    (source,) = find_sources(tmp_path / "a.jsonl").sources
    assert (source.name, source.format, source.part, source.where(3)) == ("a.jsonl", "alpaca", "", "a.jsonl:3")
    (raw,) = source.read()
    item = source.convert(raw)
    assert isinstance(item, Conversation)
    assert item.id == "a.jsonl:1"
    (tmp_path / "b.json").write_text(SHARE)
    assert find_sources(tmp_path / "b.json").sources[0].where(0) == "b.json[0]"


def test_a_folder_may_bring_its_own_division_in_any_format(tmp_path: Path) -> None:
    write_conversations(tmp_path / "held_out.jsonl", [Conversation(id="a", messages=[Message(role="user", content="x")])])
    (tmp_path / "train.jsonl").write_text(ALPACA)
    (tmp_path / "more.jsonl").write_text(ALPACA)
    found = find_sources(tmp_path)
    assert told(found.sources) == [("train.jsonl", "alpaca", "train"), ("held_out.jsonl", "conversations", "held_out")]
    assert rough_bytes(tmp_path) == (tmp_path / "train.jsonl").stat().st_size


def test_every_file_of_a_folder_has_its_own_format(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.jsonl").write_text(ALPACA)
    (tmp_path / "deep" / "er" / "c.json").write_text(SHARE)
    (tmp_path / "README.md").write_text("About the data.")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / ".hidden.jsonl").write_text("{}")
    (tmp_path / "rejected.jsonl").write_text("{}")
    (tmp_path / "notes.csv").write_text("x")
    (tmp_path / "odd.json").write_text('{"version": 3}')
    found = find_sources(tmp_path)
    assert told(found.sources) == [("b.jsonl", "alpaca", ""), ("deep/er/c.json", "sharegpt", "")]
    assert set(found.left_out) == {"README.md", "notes.csv", "odd.json"}
    assert "version" in found.left_out["odd.json"]


def test_a_folder_of_documents(tmp_path: Path) -> None:
    write_documents(tmp_path, [Document(id=str(number), text="x") for number in range(5)], rows_per_part=3)
    for name in ("funnel.json", "manifest.json", "rejected.jsonl"):
        (tmp_path / name).write_text('{"text": "no"}\n')
    found = find_sources(tmp_path)
    assert told(found.sources) == [("part-00000.parquet", "text", ""), ("part-00001.parquet", "text", "")]
    assert found.left_out == {}


def test_texts_are_documents_and_a_single_one_is_divided(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n" * 100)
    head, tail = find_sources(tmp_path / "a.txt", held_out=0.2).sources
    assert (head.part, tail.part, head.where(3)) == ("train", "held_out", "a.txt")
    lengths = [sum(len(raw.data["text"]) for raw in source.read() if isinstance(raw.data, dict)) for source in (head, tail)]
    assert sum(lengths) == 400
    assert 76 <= lengths[1] <= 80
    assert told(find_sources(tmp_path).sources) == told([head, tail])
    (tmp_path / "b.md").write_text("two")
    assert told(find_sources(tmp_path).sources) == [("a.txt", "text", ""), ("b.md", "text", "")]


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "t", "question": "q", "answer": "a"}\n')
    assert find_sources(tmp_path / "a.jsonl").sources[0].format == "pairs"
    (source,) = find_sources(tmp_path / "a.jsonl", "text").sources
    (raw,) = source.read()
    assert isinstance(source.convert(raw), Document)
    (wrong,) = find_sources(tmp_path / "a.jsonl", "alpaca").sources
    with pytest.raises(RecordError, match="no instruction"):
        wrong.convert(raw)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="plain text, not alpaca"):
        find_sources(tmp_path / "a.txt", "alpaca")


def test_what_is_not_there_or_not_understood(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        find_sources(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no training data"):
        find_sources(tmp_path)
    (tmp_path / "a.json").write_text('{"version": 3}')
    with pytest.raises(DataError, match="the fields version"):
        find_sources(tmp_path)
    (tmp_path / "b.json").write_text('{"version": 3}')
    with pytest.raises(DataError, match="no file in") as caught:
        find_sources(tmp_path)
    assert caught.value.message.count("version") == 2


def test_the_demo_files_of_llama_factory_and_gsm8k(shared_data: Path) -> None:
    wanted = {
        "alpaca_en_demo": ("alpaca", 999, 0), "alpaca_zh_demo": ("alpaca", 1000, 0), "identity": ("alpaca", 91, 0),
        "dpo_en_demo": ("preference", 300, 0), "dpo_zh_demo": ("preference", 300, 0),
        "glaive_toolcall_en_demo": ("sharegpt", 300, 0), "glaive_toolcall_zh_demo": ("sharegpt", 300, 0),
        "kto_en_demo": ("openai", 150, 150),
    }  # fmt: skip
    paths = [*sorted((shared_data / "sft").glob("*.json.gz")), shared_data / "eval" / "gsm8k" / "test.jsonl.gz"]
    found = {}
    for path in paths:
        (source,) = find_sources(path).sources
        good, reasons = 0, []
        for raw in source.read():
            try:
                source.convert(raw)
                good += 1
            except RecordError as error:
                reasons.append(error.reason)
        found[path.name.split(".")[0]] = (source.format, good, len(reasons))
        assert set(reasons) <= {"its label is false: an answer that was not wanted"}
    assert found == {**wanted, "test": ("pairs", 660, 0)}
