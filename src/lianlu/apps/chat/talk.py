"""A conversation in the terminal: the turns so far, and what may be typed.

`terminal` reads lines, here is what they do. The conversation is sent whole with every message; the engine's prefix cache
makes that cheap, as it computes only what is new. `/save` writes the format of `formats.messages`, so that a talk can be
loaded again, or trained on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lianlu.apps.chat.pace import Pace, Paces
from lianlu.client.base import ChatRequest, Client, Reply, Sampling
from lianlu.core import console
from lianlu.core.config import parse_override
from lianlu.core.errors import LianluError, RequestError
from lianlu.engine.options import CONSTRAINTS, OF_REQUEST, checked_options, sampling_of
from lianlu.formats.messages import Conversation, Message, read_conversations, write_conversations

HELP = '''Type a message and press Enter. The model sees the whole conversation.

  /system TEXT      set the instructions the model gets first, and begin anew (without TEXT: show them)
  /set NAME=VALUE   how replies are chosen: temperature=0.7 top_p=0.9 max_tokens=500 seed=1 stop="###" ...
                    (without NAME: show what is set)
  /again            drop the last reply and ask for another one
  /reset            forget the conversation, keep the instructions
  /save FILE        write the conversation to a file (without FILE: to the one of the last /save or /load)
  /load FILE        go on with the conversation in a file
  /stats            tokens, speed, and what the prefix cache saved
  /help             show this
  /exit             leave (so does Ctrl-D)

A line that ends in a backslash goes on in the next one. A line of three quotes (""") opens a block of
several lines, another one closes it. Begin with // to send a message that starts with a slash.
Ctrl-C stops a reply and keeps what has come.'''

SAMPLING = Sampling(max_tokens=1024)
# what a terminal would obey; line ends and tabs stay
CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")


@dataclass
class Talk:
    """A conversation: instructions, the turns so far, and what may be typed."""

    client: Client
    sampling: Sampling = SAMPLING
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    interactive: bool = False
    file: Path | None = None
    paces: Paces = field(default_factory=Paces)

    def handle(self, text: str) -> bool:
        """Do what was typed; False when that was to leave. Raises: LianluError unless at a terminal, where it is shown."""
        try:
            if text.startswith("//"):
                self.say(text[1:])
            elif text.startswith("/") and "\n" not in text:
                return self._command(text)
            elif text.strip():
                self.say(text)
        except LianluError as error:
            if not self.interactive:
                raise
            console.error(error.message, error.hint or "/reset begins anew")
        return True

    def say(self, text: str) -> None:
        """Send a message and stream the reply. Raises: LianluError."""
        user = Message(role="user", content=text)
        answer = self._stream(ChatRequest(messages=[*self._head(), *self.turns, user], sampling=self.sampling))
        if answer.content:
            self.turns += [user, answer]

    def _command(self, text: str) -> bool:
        name, _, rest = text.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: console.info(HELP),
            "/reset": self._reset,
            "/again": self._again,
            "/system": self._set_system,
            "/set": self._set,
            "/save": self._save,
            "/load": self._load,
            "/stats": lambda _: console.info(self.paces.summary()),
        }
        if name in ("/exit", "/quit"):
            return False
        if name in commands:
            commands[name](rest.strip())
        else:
            console.info(f"there is no {name}; /help lists what there is, and // begins a message with a slash")
        return True

    def _head(self) -> list[Message]:
        return [Message(role="system", content=self.system)] if self.system else []

    def _reset(self, _rest: str) -> None:
        self.turns.clear()
        console.info("the conversation begins anew")

    def _again(self, _rest: str) -> None:
        """Ask once more for the last reply, which stays if there is no new one. Raises: LianluError."""
        kept = self.turns
        if [turn.role for turn in kept[-2:]] != ["user", "assistant"]:
            console.info("there is no reply yet")
            return
        if not self.sampling.temperature:
            console.info("temperature is 0, so the reply will be the same; /set temperature=0.7 changes that")
        self.turns = kept[:-2]
        try:
            self.say(kept[-2].content)
        finally:
            if len(self.turns) < len(kept):
                self.turns = kept

    def _set_system(self, text: str) -> None:
        if text:
            self.system = text
            self.turns.clear()
        console.info(f"instructions: {self.system}" if self.system else "there are no instructions; /system TEXT sets them")

    def _set(self, text: str) -> None:
        """Change some of the sampling; values are written as in TOML. Raises: RequestError, ConfigError."""
        given: dict[str, Any] = {}
        for part in re.split(r"\s+(?=\w+\s*=)", text) if text else ():
            given |= parse_override(part)
        for name in given:
            if name in (*OF_REQUEST, "tool_choice"):
                raise RequestError(f"{name} cannot be set here", hint="it belongs to the Python interface")
        made = sampling_of(checked_options(given))
        names = {"constraint" if name in CONSTRAINTS else name for name in given}
        self.sampling = replace(self.sampling, **{name: getattr(made, name) for name in names})
        plain = Sampling()
        changed = [f.name for f in fields(Sampling) if getattr(self.sampling, f.name) != getattr(plain, f.name)]
        console.info("set: " + (", ".join(f"{name}={getattr(self.sampling, name)!r}" for name in changed) or "nothing"))

    def _save(self, name: str) -> None:
        """Raises: ArtifactError for the disk."""
        path = Path(name).expanduser() if name else self.file
        if path is None or not self.turns:
            console.info("write /save FILE" if path is None else "there is nothing to save yet")
        elif path.exists() and path != self.file:
            console.info(f"there is a file {path} already; choose another name")
        else:
            talk = Conversation(id=path.stem or "chat", messages=[*self._head(), *self.turns], meta={"model": self.client.name})
            write_conversations(path, [talk])
            self.file = path
            console.info(f"saved {_count(len(self.turns), 'message')} to {path}")

    def _load(self, name: str) -> None:
        """Raises: DataError for a file that holds no conversation."""
        if not name:
            console.info("write /load FILE")
            return
        path = Path(name).expanduser()
        found = next(read_conversations(path), None)
        if found is None:
            console.info(f"{path} is empty")
            return
        is_led = found.messages[0].role == "system"
        self.system = found.messages[0].content if is_led else ""
        self.turns = found.messages[1:] if is_led else list(found.messages)
        self.file = path
        console.info(f"loaded {_count(len(self.turns), 'message')} from {path}")

    def _stream(self, request: ChatRequest) -> Message:
        """The reply, shown as it comes; Ctrl-C ends it early and keeps the part."""
        pace, shown, reply = Pace(time.monotonic()), "", None
        source = self.client.stream(request)
        try:
            for delta in source:
                if delta.text:
                    pace.note(time.monotonic())
                    self._show(delta.text)
                shown += delta.text
                reply = delta.reply or reply
        except KeyboardInterrupt:
            reply = None
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            console.out_raw("\n")
        self._tell(pace, reply)
        return Message(role="assistant", content=shown) if reply is None else reply.message

    def _show(self, text: str) -> None:
        """On a terminal, a model's control characters are shown and not obeyed."""
        console.out_raw(text.translate(CONTROLS) if self.interactive else text)

    def _tell(self, pace: Pace, reply: Reply | None) -> None:
        self.paces.add(pace, reply)
        if console.is_terminal() and self.interactive:
            console.info(f"\x1b[2m[{pace.note_of(reply)}]\x1b[0m")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
