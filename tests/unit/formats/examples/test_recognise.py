"""The format of a file is told by its first records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lianlu.core.errors import DataError
from lianlu.formats.documents import Document, write_parquet
from lianlu.formats.examples.recognise import FORMATS, NUM_LOOKED_AT, formats_of, recognise
from lianlu.formats.messages import Conversation, Message, write_conversations

ALPACA = {"instruction": "q", "input": "", "output": "a"}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
SHARE = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
PAIR = {"question": "q", "answer": "a"}


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("alpaca", [ALPACA, {"instruction": "q", "output": "a", "history": None}]),
        ("openai", [CHAT]),
        ("sharegpt", [SHARE]),
        ("pairs", [PAIR]),
        ("text", [{"text": "t", "meta": {}}]),
        ("preference", [{"prompt": "q", "chosen": "a", "rejected": "b"}]),
        ("xtuner", [{"conversation": [{"input": "q", "output": "a"}]}]),
        ("alpaca", ["{broken", {"odd": 1}, ALPACA, ALPACA, SHARE]),
        ("openai", [{"messages": [], "id": 1}, CHAT]),
        ("sharegpt", [{"conversations": []}]),
        ("openai", [{**CHAT, "text": "whole", "question": "q", "answer": "a"}]),
    ],
)
def test_formats_are_told_apart(tmp_path: Path, name: str, records: list[Any]) -> None:
    assert recognise(lines(tmp_path / "a.jsonl", *records)).name == name


def test_files_of_lianlu_and_texts_need_no_look(tmp_path: Path) -> None:
    write_conversations(tmp_path / "c.jsonl", [Conversation(id="a", messages=[Message(role="user", content="x")])])
    write_parquet(tmp_path / "d.parquet", [Document(id="a", text="x")])
    (tmp_path / "e.txt").write_text("")
    assert [recognise(tmp_path / name).name for name in ("c.jsonl", "d.parquet", "e.txt")] == ["conversations", "text", "text"]


def test_an_unknown_format_shows_its_fields_and_what_is_understood(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        recognise(lines(tmp_path / "a.jsonl", {"headline": "x", "body": "y"}, {"headline": "x", "score": 3}))
    assert "its records have the fields headline, body, score" in caught.value.message
    for name, kind in FORMATS.items():
        assert name in caught.value.hint
        assert kind.shape in caught.value.hint


def test_an_ambiguous_format_shows_both(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        recognise(lines(tmp_path / "a.jsonl", {**CHAT, **SHARE}))
    assert "sharegpt or openai (1 of the first 1)" in caught.value.message
    assert 'format="' in caught.value.hint
    with pytest.raises(DataError, match=r"ambiguous: alpaca \(2 of the first 4\), pairs \(2 of the first 4\)"):
        recognise(lines(tmp_path / "a.jsonl", ALPACA, PAIR, ALPACA, PAIR))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no records"),
        ("\n\n", "holds no records"),
        ("[]", "holds no records"),
        ("hello there\n", "no record that can be read: not JSON"),
        ("[1, 2]", "no record that can be read: not a JSON object: it is a number"),
        ("\xff\xfe", "no record that can be read"),
    ],
)
def test_files_without_a_record(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        recognise(tmp_path / "a.json")


def test_a_file_of_no_known_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n")
    with pytest.raises(DataError, match="no kind that is understood") as caught:
        recognise(tmp_path / "a.csv")
    assert ".jsonl.gz" in caught.value.hint


def test_only_the_beginning_is_looked_at(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *[ALPACA] * NUM_LOOKED_AT, *[SHARE] * 500)
    assert recognise(path).name == "alpaca"


def test_what_only_looks_like_a_format_is_none() -> None:
    for record in (
        {"instruction": "q"},
        {"question": "q"},
        {"chosen": "a"},
        {"conversation": "x"},
        {"messages": "x"},
        {"messages": [1]},
    ):
        assert formats_of(record) == ()


def test_the_records_that_the_documentation_shows_are_understood() -> None:
    page = (Path(__file__).parents[4] / "docs" / "formats.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \| `(\{.*?\})`(?:[;,]| \(| \|)", page, re.MULTILINE))
    assert set(shown) == set(FORMATS) - {"conversations"}
    for name, text in shown.items():
        record = json.loads(text)
        assert formats_of(record) == (name,)
        item = FORMATS[name].convert(record, "x")
        assert isinstance(item, Document if name == "text" else Conversation)
