"""The terminal chat, with lines from a list and scripted replies."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lianlu.apps.chat import terminal
from lianlu.apps.chat.terminal import HELP, Talk, chat, read_message
from lianlu.client.base import ChatRequest, Delta, Reply
from lianlu.client.scripted import ScriptedClient
from lianlu.core.errors import RequestError
from lianlu.formats.messages import Message


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


def test_the_temperature_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient(["1", "2"])
    chat(client, ["a", "/temperature 0.7", "/temperature", "/temperature hot", "/temperature nan", "/temperature 3", "b"])
    first, second = (request.sampling for request in client.requests if isinstance(request, ChatRequest))
    assert (first.temperature, second.temperature) == (0.0, 0.7)
    assert capsys.readouterr().err.count("temperature: 0.7") == 5


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
    talk.say("long")
    talk.say("short")
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
