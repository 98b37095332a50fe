"""`lianlu chat` as its user has it: in a terminal, with a model in the same process."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lianlu.apps.chat.terminal import chat
from lianlu.engine.connect import connect

pytestmark = pytest.mark.e2e


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, model: Path) -> None:
        self._screen, theirs = pty.openpty()
        command = [sys.executable, "-m", "lianlu", "chat", str(model), "--precision", "float32"]
        environment = os.environ | {"TERM": "dumb", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._unread = ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def wait_for(self, pattern: str, within_s: float = 60) -> str:
        """What is shown up to and with the pattern."""
        end = time.monotonic() + within_s
        while not (found := re.search(pattern, self._unread)):
            assert time.monotonic() < end, f"no {pattern!r} in {self._unread[-2000:]!r}"
            if select.select([self._screen], [], [], 0.2)[0]:
                self._unread += os.read(self._screen, 65536).decode(errors="replace")
        seen, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return seen

    def wait_for_prompt(self) -> None:
        """Until the line editor has the terminal; a signal or a Ctrl-D that comes just before may be lost to it."""
        self.wait_for("> ")
        time.sleep(0.5)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._screen)


@pytest.fixture
def terminal(reciter: Path) -> Iterator[Terminal]:
    made = Terminal(reciter)
    yield made
    made.close()


def test_ctrl_c_stops_the_reply_but_not_the_chat(terminal: Terminal) -> None:
    terminal.wait_for("/help lists")
    terminal.wait_for("> ")
    terminal.type("/set max_tokens=4000 regex=[a-z]{3000}\n")
    terminal.wait_for("max_tokens=4000")
    terminal.type("go on\n")
    terminal.wait_for("[a-z]{100}")
    terminal.process.send_signal(signal.SIGINT)
    shown = terminal.wait_for("stopped; the part is kept")
    assert len(re.findall("[a-z]", shown)) < 3000
    terminal.wait_for_prompt()
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("Ctrl-D or /exit leaves")
    terminal.type("/set regex=[a-z]{5}\nonce more\n")
    terminal.wait_for(r"tokens, [\d.]+ tokens/s, first after [\d.]+ s")
    terminal.type("/stats\n")
    terminal.wait_for("in all: 2 replies")
    terminal.wait_for_prompt()
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


def test_the_next_turn_comes_from_the_prefix_cache(reciter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = connect(reciter)
    try:
        chat(client, ["a long message " * 20, "short", "/stats"])
    finally:
        client.close()
    found = re.search(r"its prompt: (\d+) tokens, (\d+) of them from the prefix cache", capsys.readouterr().err)
    assert found is not None
    assert int(found[1]) - int(found[2]) < 150
