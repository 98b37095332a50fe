from __future__ import annotations

import random
from pathlib import Path

import pytest

from lianlu.agent.tools.python import python_tool
from lianlu.core.config import input_fields
from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.data import chat_data
from lianlu.data.chat_data import PYTHON_TOOL, ChatDataConfig
from lianlu.data.docstrings import Symbol
from lianlu.data.questions import has_good_answer, questions
from lianlu.formats.messages import Conversation, read_conversations
from lianlu.formats.problems import for_training


def symbol(doc: str, name: str = "shorten", parameters: tuple[str, ...] = ("text", "width")) -> Symbol:
    return Symbol("textwrap", name, "function", f"{name}({', '.join(parameters)})", parameters, doc)


@pytest.fixture(scope="module")
def library() -> list[Symbol]:
    return list(chat_data._symbols(80))


@pytest.fixture
def run(library: list[Symbol], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(chat_data, "_symbols", lambda words: iter(library))

    def call(**config: int) -> tuple[Output, list[Conversation], list[Conversation]]:
        out = Output(tmp_path)
        chat_data.run(ChatDataConfig(**config), out)
        return out, list(read_conversations(tmp_path / "train.jsonl")), list(read_conversations(tmp_path / "held_out.jsonl"))

    return call


def test_counts_are_those_asked_for_and_no_symbol_is_on_both_sides(run) -> None:  # type: ignore[no-untyped-def]
    out, train, held_out = run()
    assert out.figures["train_by_kind"] == {"arithmetic": 40, "arithmetic-tool": 120, "docstring": 400}
    assert out.figures["held_out_by_kind"] == {"arithmetic": 10, "arithmetic-tool": 20, "docstring": 60}
    about = [{c.meta["symbol"] for c in side if c.meta["kind"] == "docstring"} for side in (train, held_out)]
    assert not about[0] & about[1]
    answers = [{c.messages[-1].content for c in side if c.meta.get("question") == "what"} for side in (train, held_out)]
    assert not answers[0] & answers[1]
    assert len({c.id for c in train + held_out}) == len(train + held_out)
    assert all(len(c.messages[-1].content.split()) <= 90 for c in train + held_out)
    assert {c.meta["question"] for c in train if c.meta["kind"] == "docstring"} == {"what", "arguments", "which"}


def test_arithmetic_calls_the_tool_states_the_result_and_stays_on_its_side(run) -> None:  # type: ignore[no-untyped-def]
    _, train, held_out = run(num_train=5, num_held_out=2)
    problems = [c for c in train + held_out if c.meta["kind"] != "docstring"]
    assert len({c.meta["expression"] for c in problems}) == len(problems) == 190
    for conversation in problems:
        assert for_training(conversation.meta["expression"])
        assert str(conversation.meta["answer"]) in conversation.messages[-1].content
        if conversation.meta["kind"] == "arithmetic-tool":
            _, call, result, _ = conversation.messages
            assert conversation.tools == [PYTHON_TOOL]
            assert call.tool_calls[0].arguments == {"code": f"print({conversation.meta['expression']})"}
            assert result.tool_call_id == call.tool_calls[0].id
            assert int(result.content) == eval(conversation.meta["expression"])
        else:
            assert not conversation.tools


def test_the_seed_decides_everything(run) -> None:  # type: ignore[no-untyped-def]
    first, again, other = run(seed=1)[1:], run(seed=1)[1:], run(seed=2)[1:]
    assert first == again
    assert first != other


def test_more_questions_than_symbols_take_second_ones_and_too_many_are_refused(run, library: list[Symbol]) -> None:  # type: ignore[no-untyped-def]
    _, train, held_out = run(num_train=len(library) + 50, num_held_out=1)
    assert len(train) == len(library) + 50 + 160
    assert len([c for c in held_out if c.meta["kind"] == "docstring"]) == 1
    with pytest.raises(DataError, match="questions of the"):
        run(num_train=10 * len(library))


def test_the_library_gives_good_answers(library: list[Symbol]) -> None:
    assert len(library) > 1000
    names = {found.full_name for found in library}
    assert "textwrap.shorten" in names
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]


@pytest.mark.parametrize(
    ("doc", "good"),
    [
        ("Collapse and truncate the given text.\n\nMore.", True),
        ("Return the number of all the things", True),
        ("Too short.", False),
        ("lower case beginnings are seldom sentences.", False),
        ("Use it as in:\n\n>>> f()", False),
        (">>> shorten('x') and more words here.", False),
        ("shorten(text, width) -> str\n\nCollapse the text.", False),
        ("Return the café of the whole town.", False),
        ("The parameters are as listed below here:", False),
        ("Word " * 81, False),
    ],
)
def test_only_sentences_become_answers(doc: str, good: bool) -> None:
    assert has_good_answer(symbol(doc), 80) is good


def test_questions_of_each_kind() -> None:
    found = {
        q.kind: q for q in questions(symbol("Collapse and truncate the :class:`str` to fit\nin a ``width``."), random.Random(0))
    }
    assert found["what"].answer == "Collapse and truncate the str to fit in a `width`."
    assert "`textwrap.shorten`" in found["what"].text
    assert found["arguments"].answer == "`textwrap.shorten` takes `text` and `width`: `textwrap.shorten(text, width)`."
    assert found["which"].answer == "Use `textwrap.shorten`."
    assert "shorten" not in found["which"].text
    kinds = {q.kind for q in questions(symbol("Shorten a text of many words to fit.", parameters=()), random.Random(0))}
    assert kinds == {"what"}


def test_the_source_is_an_input_and_the_tool_is_the_agents_own() -> None:
    assert "source" in input_fields(ChatDataConfig)
    assert python_tool().spec == PYTHON_TOOL
    assert chat_data.estimate(ChatDataConfig()).seconds > 0
