"""`lianlu chat MODEL`: a conversation in the terminal, over any client.

Here messages of one or more lines are read; `talk` does what they say. Replies are streamed to stdout; everything else
(prompts aside) goes to stderr, so that `echo hello | lianlu chat MODEL` gives the reply and nothing more.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterable

from lianlu.apps.chat.talk import SAMPLING, Talk
from lianlu.client.base import Client, Sampling
from lianlu.core import console

PROMPT, MORE = "> ", ". "
FENCE = '"""'
ReadLine = Callable[[str], str]


def chat(client: Client, lines: Iterable[str] | None = None, sampling: Sampling = SAMPLING) -> None:
    """Talk to a model until the input ends; `lines` stand in for the keyboard.

    Raises: LianluError when the model fails and nobody is at the keyboard; on a terminal it is shown instead.
    """
    at_terminal = lines is None and sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    talk = Talk(client, sampling, interactive=at_terminal)
    read = _keyboard() if at_terminal else _reader(sys.stdin if lines is None else lines)
    if at_terminal:
        console.info(f"{client.name}; /help lists what you can type, Ctrl-D leaves")
    while True:
        try:
            if not talk.handle(read_message(read)):
                break
        except EOFError:
            break
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            console.info("\n(Ctrl-D or /exit leaves)")
    if at_terminal:
        console.out()


def read_message(read: ReadLine) -> str:
    """One message of one or more lines. Raises: EOFError when the input is over."""
    line = read(PROMPT)
    if line.strip() == FENCE:
        return "\n".join(_until_fence(read))
    parts = [line]
    while parts[-1].endswith("\\"):
        parts[-1] = parts[-1][:-1]
        try:
            parts.append(read(MORE))
        except EOFError:
            break
    return "\n".join(parts)


def _until_fence(read: ReadLine) -> Iterable[str]:
    """The lines of a block; an end of input closes it too."""
    with contextlib.suppress(EOFError):
        while (line := read(MORE)).strip() != FENCE:
            yield line


def _keyboard() -> ReadLine:
    """`input`, with editing and the arrow keys where the platform has readline."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")
    return input


def _reader(lines: Iterable[str]) -> ReadLine:
    source = iter(lines)

    def read(_prompt: str) -> str:
        line = next(source, None)
        if line is None:
            raise EOFError
        return line.rstrip("\r\n")

    return read
