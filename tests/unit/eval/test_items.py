"""Evaluation items as documents, and a corpus searched for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.core.errors import ConfigError
from lianlu.core.store import Output
from lianlu.data import decontaminate
from lianlu.data.decontaminate import DecontaminateConfig
from lianlu.eval import items
from lianlu.eval.items import ItemsConfig, parts_of
from lianlu.eval.task import Item
from lianlu.formats.documents import Document, read_documents, write_documents

LONG = "Which of the two old merchants that Anna met near the harbour bridge last spring sold her the blue lamp?"


def test_multiple_choice_gives_the_text_of_the_right_choice() -> None:
    choices = "A. The tall one\nB. The short one\nC. Both\nD. Neither\nAnswer:"
    assert parts_of(Item("1", f"{LONG}\n{choices}", "B")) == {"question": LONG, "answer": "The short one"}
    short = f"Who sold it?\n{choices}"
    assert parts_of(Item("1", short, "C")) == {"question": short, "answer": "Both"}
    assert parts_of(Item("1", "How many?", "42")) == {"question": "How many?", "answer": "42"}
    assert parts_of(Item("1", "Go on: ", "")) == {"question": "Go on:"}


def gsm8k(folder: Path) -> Path:
    (folder / "gsm8k").mkdir(parents=True)
    for name in ("train", "test"):
        rows = [
            {"question": f"{LONG} And how many are {n} lamps of the {name} set?", "answer": f"{n}\n#### {n}"} for n in range(6)
        ]
        (folder / "gsm8k" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_all_tasks_that_are_there_are_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    out = Output(tmp_path / "out")
    items.run(ItemsConfig(benchmarks=str(gsm8k(tmp_path / "benchmarks"))), out)
    found = list(read_documents(out.path))
    assert [document.meta["item"] for document in found[::2]] == [f"test/{n}" for n in range(6)]
    assert {document.meta["part"] for document in found} == {"question", "answer"}
    assert all(document.meta["task"] == "gsm8k" and "of the test set" in document.text for document in found[::2])
    assert out.figures["items"] == 6
    assert items.estimate(ItemsConfig()).seconds > 0


def test_no_tasks_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no evaluation tasks") as error:
        items.run(ItemsConfig(), Output(tmp_path))
    assert "benchmarks" in error.value.hint


def test_real_items_are_found_in_real_documents(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    table = [{"kind": "gsm8k", "shots": 0}, {"kind": "humaneval"}, {"kind": "mmlu", "subjects": ["astronomy", "philosophy"]}]
    items.run(ItemsConfig.model_validate({"benchmarks": str(shared_data / "eval"), "tasks": table}), Output(tmp_path / "items"))
    rows = [one for one in read_documents(tmp_path / "items") if one.meta["part"] == "question"]
    planted = {one.id: one for one in rows[:: len(rows) // 40] if len(one.text.split()) >= 13}
    peps = next(read_documents(next((shared_data / "corpora").glob("en_peps*"))))
    documents = [Document(name, f"{peps.text[:3000]}\n{one.text}\n{peps.text[3000:5000]}") for name, one in planted.items()]
    write_documents(tmp_path / "data", [peps, *documents])
    (tmp_path / "out").mkdir()
    out = Output(tmp_path / "out")
    decontaminate.run(DecontaminateConfig(data=str(tmp_path / "data"), items=str(tmp_path / "items")), out)
    assert [document.id for document in read_documents(out.path)] == [peps.id]
    assert out.figures["dropped"] == len(documents) >= 20
