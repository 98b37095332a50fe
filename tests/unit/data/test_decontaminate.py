"""Evaluation items in documents: what is found is what a slow search finds, and a search that finds nothing fails."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.data import decontaminate
from lianlu.data.contamination.ngram_index import NgramIndex, Windows
from lianlu.data.contamination.verdicts import canaries, judge, verdict
from lianlu.data.decontaminate import DecontaminateConfig
from lianlu.data.rules.textview import TextView
from lianlu.formats.documents import Document, read_documents, write_documents

SMALL = Windows(words=4, chars=5, min_words=2, min_chars=3, max_items=2)
WORDS = st.sampled_from(["a", "B", "c", "d,", "数", "学", "题。", "e-f", "İ"])
TEXTS = st.lists(WORDS, max_size=14).map(" ".join)
QUESTION = (
    "A train leaves the old station at noon with forty seven passengers and two dogs; how many legs does it carry when "
    "nine of the passengers step out at the second bridge?"
)
ANSWER = (
    "Thirty eight passengers have seventy six legs and the two dogs have eight more, which makes eighty four legs in all, "
    "unless somebody left a chair behind in the old carriage."
)
CHINESE = "小明有五个苹果，小红比他多三个苹果，后来两个人一起吃掉了四个苹果，请问他们现在一共还剩下多少个苹果？"


def item(task: str, name: str, part: str, text: str) -> Document:
    return Document(f"{task}/{name}/{part}", text, meta={"task": task, "item": name, "part": part})


def slow_search(items: list[Document], text: str, windows: Windows) -> dict[int, tuple[float, int]]:
    """Overlap and length in tokens of the longest common run of each item in a text, by comparing all windows."""
    tokens = TextView(text).tokens()
    sequences: list[list[str]] = []
    sizes: list[int] = []
    for document in items:
        own = TextView(document.text).tokens()
        cjk = TextView(document.text).script == "cjk"
        full, least = (windows.chars, windows.min_chars) if cjk else (windows.words, windows.min_words)
        sequences.append(own)
        sizes.append(min(full, len(own)) if len(own) >= least else 0)

    def holders(window: list[str], task: str) -> int:
        names = set()
        for document, own, size in zip(items, sequences, sizes, strict=True):
            there = size == len(window) and any(own[at : at + size] == window for at in range(len(own) - size + 1))
            if there and document.meta["task"] == task:
                names.add(document.meta["item"])
        return len(names)

    found = {}
    for number, (document, own, size) in enumerate(zip(items, sequences, sizes, strict=True)):
        pairs = [
            (place, start)
            for place in range(len(own) - size + 1 if size else 0)
            for start in range(len(tokens) - size + 1)
            if own[place : place + size] == tokens[start : start + size]
            and holders(own[place : place + size], document.meta["task"]) <= windows.max_items
        ]
        if pairs:
            covered = {place + step for place, _ in pairs for step in range(size)}
            cells = {(place + step, start + step) for place, start in pairs for step in range(size)}
            longest = max(
                next(step for step in range(len(own) + 1) if (place + step, start + step) not in cells) for place, start in cells
            )
            found[number] = (len(covered) / len(own), longest)
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 4), TEXTS), max_size=6), TEXTS)
def test_the_index_finds_what_a_slow_search_finds(rows: list[tuple[str, int, str]], text: str) -> None:
    items = [item(task, str(name), f"part{number}", own) for number, (task, name, own) in enumerate(rows)]
    hits = NgramIndex(items, SMALL).search(text)
    found = {int(hit.part.part[4:]): (hit.overlap, len(TextView(hit.text).tokens())) for hit in hits}
    assert found == slow_search(items, text, SMALL)
    for hit in hits:
        assert text[hit.start : hit.end] == hit.text
        own = TextView(next(one.text for one in items if one.meta["part"] == hit.part.part)).tokens()
        run = TextView(hit.text).tokens()
        assert any(own[at : at + len(run)] == run for at in range(len(own)))


@given(st.text(alphabet="aBß 数。\n-ς_", max_size=30))
def test_spans_of_tokens_are_those_of_the_text(text: str) -> None:
    view = TextView(text)
    assert view.tokens() == [text[start:end].lower() for start, end in view.token_spans()]


def test_a_character_that_lower_case_makes_longer_moves_no_span() -> None:
    assert TextView("xİy ab").tokens() == ["xi", "y", "ab"]
    assert TextView("xİy ab").token_spans() == [(0, 2), (2, 3), (4, 6)]


def run(tmp_path: Path, documents: list[Document], items: list[Document], **config: float) -> Output:
    write_documents(tmp_path / "data", documents, rows_per_part=2)
    write_documents(tmp_path / "items", items)
    (tmp_path / "out").mkdir(exist_ok=True)
    out = Output(tmp_path / "out")
    where = {"data": str(tmp_path / "data"), "items": str(tmp_path / "items")}
    decontaminate.run(DecontaminateConfig(**where, **config), out)  # type: ignore[arg-type]
    return out


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


ITEMS = [item("trains", "1", "question", QUESTION), item("trains", "1", "answer", ANSWER), item("zh", "7", "question", CHINESE)]


def test_documents_with_items_go_and_the_text_is_shown(tmp_path: Path) -> None:
    words = QUESTION.split()
    documents = [
        Document("clean", "Nothing here is from any test, only a long sentence about trains and stations and their bridges."),
        Document("copied", f"# Puzzles\n\n{QUESTION.upper()}\n\nThink about it."),
        Document("quoted", " ".join(words[:14]) + " and then they all lived happily."),
        Document("solved", " ".join(words[:14]) + " ... Solution: " + " ".join(ANSWER.split()[:14])),
        Document("chinese", "练习题集：" + CHINESE.replace("，", " ") + "答案在后面。"),
    ]
    out = run(tmp_path, documents, ITEMS)
    assert [document.id for document in read_documents(out.path)] == ["clean", "quoted"]
    hits = lines(out.path / decontaminate.HITS)
    assert {(hit["document"], hit["part"], hit["unfit"]) for hit in hits} == {
        ("copied", "question", True),
        ("quoted", "question", False),
        ("solved", "question", True),
        ("solved", "answer", True),
        ("chinese", "question", True),
    }
    copied = next(hit for hit in hits if hit["document"] == "copied")
    assert copied["overlap"] == 1.0
    assert copied["text"] == QUESTION.upper().rstrip("?")
    rejected = {record["id"]: record for record in lines(out.path / "rejected.jsonl")}
    assert rejected["copied"]["rule"] == "decontaminate.max_overlap"
    assert rejected["solved"]["rule"] == "decontaminate.answer"
    assert out.figures["documents"] + out.figures["dropped"] == len(documents)
    assert out.figures["planted_and_found"] == 2 * 3
    assert not [document for document in read_documents(out.path) if document.id.startswith("canary")]


def test_a_search_that_does_not_find_what_was_planted_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NgramIndex, "search", lambda self, text: [])
    with pytest.raises(DataError, match="planted item of trains was not found") as error:
        run(tmp_path, [Document("a", "some text")], ITEMS)
    assert error.value.hint


def test_items_that_cannot_be_searched_are_said_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    out = run(tmp_path, [Document("a", "some text")], [*ITEMS, item("letters", "1", "answer", "B")])
    assert out.figures["items_too_short"] == {"letters": 1}
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="no item that can be searched"):
        run(tmp_path / "b", [Document("a", "some text")], [item("letters", "1", "answer", "B")])
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"has no meta\.task"):
        run(tmp_path / "c", [Document("a", "some text")], [Document("x", QUESTION)])


def test_a_short_answer_alone_and_a_template_prove_nothing() -> None:
    short = item("code", "1", "answer", "for i in range of the list")
    index = NgramIndex([short, item("code", "1", "question", QUESTION)])
    assert verdict(judge(index.search("see: for i in range of the list, done"), 0.5), 0.5) is None
    both = " ".join(QUESTION.split()[:14]) + " | for i in range of the list"
    assert verdict(judge(index.search(both), 0.9), 0.9) is not None
    template = "choose the best of the following four answers to the question that is asked about the"
    many = NgramIndex(item("quiz", str(n), "question", f"{template} {word}") for n, word in enumerate("abcdefghijkl"))
    assert many.search(f"{template} z") == []
    assert [part.item for part in many.complete_parts()] == []


def test_planted_items_are_found_in_any_company() -> None:
    index = NgramIndex(ITEMS)
    planted = canaries(ITEMS, index)
    assert [document.meta["task"] for document in planted] == ["trains", "zh"]
    for document in planted:
        assert verdict(judge(index.search(document.text), 0.5), 0.5) is not None


def test_the_outcome_does_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontaminate, "_SERIAL_BYTES", 0)
    draw = random.Random(5)
    words = (QUESTION + ANSWER).split()
    documents = [Document(f"d{n}", " ".join(draw.choices(words, k=20)) + (QUESTION if n % 3 == 0 else "")) for n in range(8)]
    one, two = (run(tmp_path / str(n), documents, ITEMS, workers=n) for n in (1, 2))
    for name in ("part-00000.parquet", decontaminate.HITS, "rejected.jsonl", "funnel.json"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()
    assert one.figures == two.figures
    assert one.figures["dropped"] == 3
