"""`lianlu chat MODEL`: a conversation in the terminal, over any client.

Replies are streamed to stdout; everything else (prompts aside) goes to stderr, so that `echo hello | lianlu chat MODEL`
gives the reply and nothing more. The conversation is sent whole with every message; nothing is kept on disk.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from lianlu.client.base import ChatRequest, Client, Reply, Sampling
from lianlu.core import console
from lianlu.core.errors import LianluError
from lianlu.formats.messages import Message

HELP = '''Type a message and press Enter. The model sees the whole conversation.

  /system TEXT   set the instructions the model gets first, and begin anew (without TEXT: show them)
  /reset         forget the conversation, keep the instructions
  /temperature T how daring replies are: 0 (as it starts: always the likeliest word) to 2
  /help          show this
  /exit          leave (so does Ctrl-D)

A line that ends in a backslash goes on in the next one. A line of three quotes (""") opens a block of
several lines, another one closes it. Begin with // to send a message that starts with a slash.
Ctrl-C stops a reply and keeps what has come.'''

PROMPT, MORE = "> ", ". "
FENCE = '"""'
SAMPLING = Sampling(max_tokens=1024)
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
            text = read_message(read)
        except EOFError:
            break
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            console.info("\n(Ctrl-D or /exit leaves)")
            continue
        if not talk.handle(text):
            break
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


@dataclass
class Talk:
    """A conversation: instructions, the turns so far, and what may be typed."""

    client: Client
    sampling: Sampling = SAMPLING
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    interactive: bool = False

    def handle(self, text: str) -> bool:
        """Do what was typed; False when that was to leave."""
        if text.startswith("//"):
            self.say(text[1:])
        elif text.startswith("/") and "\n" not in text:
            return self._command(text)
        elif text.strip():
            self.say(text)
        return True

    def _command(self, text: str) -> bool:
        name, _, rest = text.strip().partition(" ")
        if name in ("/exit", "/quit"):
            return False
        if name == "/help":
            console.info(HELP)
        elif name == "/reset":
            self.turns.clear()
            console.info("the conversation begins anew")
        elif name == "/system":
            self._set_system(rest.strip())
        elif name == "/temperature":
            self._set_temperature(rest.strip())
        else:
            console.info(f"there is no {name}; /help lists what there is, and // begins a message with a slash")
        return True

    def _set_system(self, text: str) -> None:
        if text:
            self.system = text
            self.turns.clear()
        console.info(f"instructions: {self.system}" if self.system else "there are no instructions; /system TEXT sets them")

    def _set_temperature(self, text: str) -> None:
        try:
            value = float(text or self.sampling.temperature)
        except ValueError:
            value = -1.0
        if 0 <= value <= 2:
            self.sampling = replace(self.sampling, temperature=value)
        console.info(f"temperature: {self.sampling.temperature:g} (0 to 2)")

    def say(self, text: str) -> None:
        """Send a message and stream the reply. Raises: LianluError unless at a terminal, where it is shown."""
        user = Message(role="user", content=text)
        first = [Message(role="system", content=self.system)] if self.system else []
        request = ChatRequest(messages=[*first, *self.turns, user], sampling=self.sampling)
        try:
            answer = self._stream(request)
        except LianluError as error:
            if not self.interactive:
                raise
            console.error(error.message, error.hint or "/reset begins anew")
            return
        if answer.content:
            self.turns += [user, answer]

    def _stream(self, request: ChatRequest) -> Message:
        """The reply, shown as it comes; Ctrl-C ends it early and keeps the part."""
        began, shown, reply = time.monotonic(), "", None
        source = self.client.stream(request)
        try:
            for delta in source:
                console.out_raw(delta.text)
                shown += delta.text
                reply = delta.reply or reply
        except KeyboardInterrupt:
            reply = None
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            console.out_raw("\n")
        self._tell_speed(reply, time.monotonic() - began)
        return Message(role="assistant", content=shown) if reply is None else reply.message

    def _tell_speed(self, reply: Reply | None, seconds: float) -> None:
        if not console.is_terminal() or not self.interactive:
            return
        note = "stopped; the part is kept"
        if reply is not None:
            note = f"{reply.completion_tokens} tokens, {reply.completion_tokens / max(seconds, 1e-9):.1f} tokens/s"
            note += "; cut off at the limit of tokens" if reply.finish_reason == "length" else ""
        console.info(f"\x1b[2m[{note}]\x1b[0m")
