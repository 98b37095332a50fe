from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.agent.loop import run
from lianlu.agent.steps import Called, Given, Nudge, Run, Turn
from lianlu.agent.tool import tool
from lianlu.agent.trace import read_trace, write_trace
from lianlu.client.scripted import ScriptedClient
from lianlu.core.errors import DataError
from lianlu.formats.messages import Message, ToolCall


@tool
def double(x: int) -> int:
    """Double a number."""
    return 2 * x


def example() -> Run:
    call = Message(role="assistant", tool_calls=[ToolCall(name="double", arguments={"x": 4})])
    return run(ScriptedClient([call, "8 \u2028 \u94fe\u8def"]), [Message(role="user", content="4 + 4?")], [double])


def test_round_trip_with_and_without_times(tmp_path: Path) -> None:
    runs = [example(), example()]
    assert write_trace(tmp_path / "a.jsonl", runs) == 2
    assert read_trace(tmp_path / "a.jsonl") == runs
    assert "seconds" in (tmp_path / "a.jsonl").read_text()
    for name in ("b", "c"):
        write_trace(tmp_path / name, [example()], times=False)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert "seconds" not in (tmp_path / "b").read_text()
    assert read_trace(tmp_path / "b")[0].answer == runs[0].answer
    assert write_trace(tmp_path / "none", []) == 0
    assert read_trace(tmp_path / "none") == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
MESSAGE = st.builds(Message, role=st.sampled_from(["user", "assistant"]), content=TEXT)
CALL = st.builds(ToolCall, id=TEXT, name=TEXT, arguments=st.dictionaries(TEXT, TEXT | st.integers(), max_size=2))
SECONDS = st.none() | st.floats(0, 9)
STEP = st.one_of(
    st.builds(Given, messages=st.tuples(MESSAGE)),
    st.builds(Turn, message=MESSAGE, finish_reason=st.just("stop"), completion_tokens=st.integers(0, 9), seconds=SECONDS),
    st.builds(Called, call=CALL, message=MESSAGE, skipped=st.booleans(), seconds=SECONDS),
    st.builds(Nudge, text=TEXT),
)


@settings(max_examples=50)
@given(runs=st.lists(st.builds(Run, model=TEXT, steps=st.lists(STEP, max_size=4).map(tuple), error=TEXT), max_size=3))
def test_every_run_can_be_written_and_read(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "trace.jsonl"
    write_trace(path, runs)
    assert read_trace(path) == runs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a trace"),
        ("{}\n", "is not a trace"),
        ("\x00\x01", "is not a trace"),
        ('{"lianlu": "conversations", "format": 1}\n', "is not a trace"),
        ('{"lianlu": "trace", "format": 99}\n', "format 99"),
        ('{"lianlu": "trace"}\n', "format None"),
        ('{"lianlu": "trace", "format": 1}\n{"run": 0, "kind"', "line 2"),
        ('{"lianlu": "trace", "format": 1}\n[]\n', "line 2"),
        ('{"lianlu": "trace", "format": 1}\n{"run": 0, "kind": "nudge", "text": "x"}\n', "out of place"),
        ('{"lianlu": "trace", "format": 1}\n{"run": 0, "kind": "begin", "model": "", "tools": []}\n', "middle of run 0"),
        (
            '{"lianlu": "trace", "format": 1}\n{"run": 0, "kind": "begin", "model": "", "tools": []}\n{"run": 0, "kind": "x"}\n',
            "line 3",
        ),
    ],
)
def test_damaged_traces(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_trace(path)
    assert "bad.jsonl" in caught.value.message


def test_absent_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_trace(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b'{"lianlu": "trace", "format": 1}\n\xff\xfe')
    with pytest.raises(DataError, match="not UTF-8"):
        read_trace(tmp_path / "binary")


def test_a_cut_trace_is_noticed_wherever_it_is_cut(tmp_path: Path) -> None:
    write_trace(tmp_path / "whole", [example()])
    data = (tmp_path / "whole").read_bytes()
    header = data.index(b"\n") + 1
    for size in range(header + 1, len(data) - 1, 7):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(DataError):
            read_trace(tmp_path / "cut")
