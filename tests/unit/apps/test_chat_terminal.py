"""The terminal chat, with lines from a list and scripted replies."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lianlu.apps.chat import terminal
from lianlu.apps.chat.pace import Pace
from lianlu.apps.chat.talk import HELP, SAMPLING, Talk
from lianlu.apps.chat.terminal import chat, read_message
from lianlu.client.base import ChatRequest, Constraint, Delta, Reply
from lianlu.client.scripted import ScriptedClient
from lianlu.core.errors import RequestError
from lianlu.formats.messages import Message, read_conversations


def sent(client: ScriptedClient, index: int) -> list[tuple[str, str]]:
    request = client.requests[index]
    assert isinstance(request, ChatRequest)
    return [(message.role, message.content) for message in request.messages]


def test_replies_are_streamed_to_stdout_and_nothing_else_is(capsys: pytest.CaptureFixture[str]) -> None:
    chat(ScriptedClient(["Hello there.", "Fine."]), ["hi\n", "\n", "   \n", "how are you?\n"])
    assert capsys.readouterr().out == "Hello there.\nFine.\n"


def test_the_whole_conversation_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(["one", "two"])
    chat(client, ["a", "b"])
    assert sent(client, 1) == [("user", "a"), ("assistant", "one"), ("user", "b")]


def test_reset_keeps_the_instructions_and_system_sets_them(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(["1", "2", "3"])
    chat(client, ["a", "/system Be brief.", "b", "/reset", "c"])
    assert sent(client, 1) == [("system", "Be brief."), ("user", "b")]
    assert sent(client, 2) == [("system", "Be brief."), ("user", "c")]


def test_system_without_text_shows_the_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    chat(ScriptedClient([]), ["/system", "/system Rhyme.", "/system"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no instructions" in shown.err
    assert shown.err.count("instructions: Rhyme.") == 2


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["one \\", "two\\", "three"], "one \ntwo\nthree"),
        (["ends here\\"], "ends here\n"[:-1]),
        (['"""', "def f():", "    pass\\", "", '"""', "rest"], "def f():\n    pass\\\n"),
        (['"""', "never closed"], "never closed"),
        (["plain"], "plain"),
    ],
)
def test_messages_of_several_lines(lines: list[str], text: str) -> None:
    assert read_message(terminal._reader(lines)) == text


def test_commands_are_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(["slash"])
    chat(client, ["/help", "/nonsense", "//etc/passwd is a file", "/exit", "never sent"])
    shown = capsys.readouterr()
    assert HELP in shown.err
    assert "there is no /nonsense" in shown.err
    assert shown.out == "slash\n"
    assert sent(client, 0) == [("user", "/etc/passwd is a file")]
    assert len(client.requests) == 1


def test_sampling_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(["1", "2", "3"])
    chat(client, ["a", '/set temperature=0.7 top_p = 0.9 stop="x y"', "b", "/set temperature=0 regex=[0-9]+", "/set", "c"])
    first, second, third = (request.sampling for request in client.requests if isinstance(request, ChatRequest))
    assert first == SAMPLING
    assert (second.temperature, second.top_p, second.stop, second.max_tokens) == (0.7, 0.9, ("x y",), SAMPLING.max_tokens)
    assert (third.temperature, third.top_p, third.constraint) == (0.0, 0.9, Constraint("regex", "[0-9]+"))
    shown = capsys.readouterr().err
    assert "set: max_tokens=1024, temperature=0.7, top_p=0.9, stop=('x y',)" in shown


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/set temprature=1", "did you mean temperature"),
        ("/set temperature=hot", "temperature is 'hot'"),
        ("/set temperature", "write key=value"),
        ("/set session=mine", "session cannot be set here"),
        ("/set json_schema=5", "no JSON Schema"),
    ],
)
def test_wrong_settings_are_told_and_change_nothing(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(ScriptedClient([]), interactive=True)
    assert talk.handle(line)
    assert talk.sampling == SAMPLING
    assert says in capsys.readouterr().err


def test_a_talk_is_saved_and_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "talk.jsonl"
    chat(ScriptedClient(["one"]), ["/save x", "/system Be brief.", "a", f"/save {path}", "/save"])
    shown = capsys.readouterr().err
    assert "nothing to save yet" in shown
    assert shown.count(f"saved 2 messages to {path}") == 2
    (kept,) = read_conversations(path)
    assert [(turn.role, turn.content) for turn in kept.messages] == [("system", "Be brief."), ("user", "a"), ("assistant", "one")]
    client = ScriptedClient(["two"])
    chat(client, [f"/load {path}", "b", "/save"])
    assert sent(client, 0) == [("system", "Be brief."), ("user", "a"), ("assistant", "one"), ("user", "b")]
    assert len(next(read_conversations(path)).messages) == 5


def test_files_are_not_written_over_and_wrong_ones_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    talk = Talk(ScriptedClient(["one"]), interactive=True)
    for line in ("a", f"/save {path}", "/save", "/load", f"/load {path}", f"/load {tmp_path / 'none'}", f"/save {path}/x"):
        assert talk.handle(line)
    shown = capsys.readouterr().err
    assert path.read_text() == "my notes"
    for says in ("already; choose another name", "write /save FILE", "write /load FILE", "not JSON", "there is no file"):
        assert says in shown
    assert len(talk.turns) == 2


def test_another_reply_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(["one", "two", "three", RequestError("busy")])
    talk = Talk(client, interactive=True)
    for line in ("/again", "a", "b", "/again", "/again"):
        talk.handle(line)
    assert sent(client, 2) == sent(client, 1) == [("user", "a"), ("assistant", "one"), ("user", "b")]
    assert [turn.content for turn in talk.turns] == ["a", "one", "b", "three"]
    shown = capsys.readouterr().err
    assert "there is no reply yet" in shown
    assert "temperature is 0" in shown
    assert "busy" in shown


def test_stats(capsys: pytest.CaptureFixture[str]) -> None:
    reply = Reply(Message(role="assistant", content="four words in here"), "length", 90, 10, cached_tokens=64)
    chat(ScriptedClient([reply, "one two"]), ["/stats", "a", "/stats", "b", "/stats"])
    shown = capsys.readouterr().err
    assert "there is no reply yet" in shown
    assert "10 tokens, " in shown
    assert "cut off at the limit" in shown
    assert "its prompt: 90 tokens, 64 of them from the prefix cache" in shown
    assert "in context: 100 tokens" in shown
    assert "in all: 2 replies, 12 tokens in " in shown


def test_speed_is_that_behind_the_first_token() -> None:
    pace = Pace(began_s=10.0)
    assert pace.per_second(5) == 0.0
    for now_s in (10.5, 11.0, 11.5):
        pace.note(now_s)
    assert (pace.wait_s, pace.per_second(21)) == (0.5, 20.0)
    at_once = Pace(began_s=10.0)
    at_once.note(10.5)
    assert at_once.per_second(20) == 40.0


def test_control_characters_reach_a_pipe_but_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b]0;title\x07\x9b2J\tb\nc"
    Talk(ScriptedClient([text])).say("x")
    assert capsys.readouterr().out == text + "\n"
    Talk(ScriptedClient([text]), interactive=True).say("x")
    assert capsys.readouterr().out == "a\ufffd]0;title\ufffd\ufffd2J\tb\nc\n"


class Interrupted(ScriptedClient):
    """The user presses Ctrl-C after two pieces."""

    closed = False

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        self.requests.append(request)
        try:
            yield Delta(text="half ")
            yield Delta(text="a reply")
            raise KeyboardInterrupt
        finally:
            self.closed = True


def test_ctrl_c_keeps_the_part(capsys: pytest.CaptureFixture[str]) -> None:
    client = Interrupted([])
    talk = Talk(client)
    assert talk.handle("go on")
    assert capsys.readouterr().out == "half a reply\n"
    assert talk.turns == [Message(role="user", content="go on"), Message(role="assistant", content="half a reply")]
    assert client.closed


def test_an_interrupt_before_the_first_word_leaves_no_turn(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_request: object) -> Reply:
        raise KeyboardInterrupt

    talk = Talk(ScriptedClient([interrupt]))
    talk.say("hello")
    assert talk.turns == []


def test_errors_end_a_piped_chat_but_not_one_at_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    error = RequestError("the prompt is too long", hint="shorten it")
    with pytest.raises(RequestError):
        chat(ScriptedClient([error]), ["a"])
    talk = Talk(ScriptedClient([error, "better"]), interactive=True)
    talk.handle("long")
    talk.handle("short")
    assert "the prompt is too long" in capsys.readouterr().err
    assert [turn.content for turn in talk.turns] == ["short", "better"]


def test_piped_input_with_broken_text_and_no_last_line_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with io.TextIOWrapper(io.BytesIO(b"caf\xff\r\nlast"), encoding="utf-8") as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        client = ScriptedClient(["1", "2"])
        chat(client)
    assert sent(client, 0) == [("user", "caf\ufffd")]
    assert sent(client, 1)[-1] == ("user", "last")
    assert capsys.readouterr().out == "1\n2\n"


def test_at_a_terminal_there_is_a_greeting_and_a_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed: Iterator[Any] = iter(["hi", KeyboardInterrupt(), EOFError()])

    def type_line(_prompt: str = "") -> str:
        item = next(typed)
        if isinstance(item, BaseException):
            raise item
        return str(item)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", type_line)
    monkeypatch.setattr(terminal.console, "is_terminal", lambda: True)
    chat(ScriptedClient(["four words in here"]))
    shown = capsys.readouterr()
    assert shown.out.startswith("four words in here\n")
    assert "scripted; /help" in shown.err
    assert "4 tokens" in shown.err
    assert "Ctrl-D or /exit leaves" in shown.err
