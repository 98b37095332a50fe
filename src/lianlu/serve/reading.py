"""The text of a reply as it grows, taken apart into what is said and the calls that are made.

Between the engine's events and the shapes of an API: `generate` and `responses` feed a reader the text of each event and
write the pieces that come back in their own form. A whole reply is read by the same reader, fed once.

- No tools: everything is said at once.
- Tools, and the reply is under a tool grammar (`sure`): what follows an opening tag is a call, so its name and then its
  arguments are given out while they are written, character by character as the model wrote them.
- Tools without a grammar: from an opening tag on, or from a brace at the very beginning (small models leave out the tags), the
  text is held back and read as a whole at the end, forgivingly (`tokenizer.tool_calls`).

No text is looked at twice, but for the few characters that may be the beginning of a tag.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from lianlu.formats.messages import Message, ToolSpec
from lianlu.serve.wire_chat import ToolUse
from lianlu.tokenizer.tool_calls import OPENERS

_HEAD = re.compile(
    r'\s*(?P<tag><tool_call>|<\|action_start\|>\s*<\|plugin\|>)?\s*\{\s*"name"\s*:\s*'
    r'(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*'
)
_CLOSER = re.compile(r"</tool_call>|<\|action_end\|>")
_MARK = re.compile(r'["\\{}\[\]]')


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A call begins; `number` counts the calls of a reply from 0, `id` names the call for the tool's answer."""

    number: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of the arguments of call `number`; the pieces together are one JSON object."""

    number: int
    text: str


Piece = Said | Opened | Written


@dataclass
class WholeCall:
    """A call with all that was written of its arguments."""

    id: str
    name: str
    arguments: str = ""


class Parser(Protocol):
    """Reads calls out of a whole text, as `Tokenizer` does."""

    def parse(self, text: str, tools: tuple[ToolSpec, ...], /) -> Message: ...

    def visible(self, text: str, tools: tuple[ToolSpec, ...], /) -> str: ...


class _At(Enum):
    TEXT = auto()
    NAME = auto()
    ARGUMENTS = auto()
    TAIL = auto()
    HELD = auto()
    OVER = auto()


class Reader:
    """Reads one reply. `num_calls` counts the calls so far; `is_open` says that the last one is not complete."""

    def __init__(self, parser: Parser, use: ToolUse, sure: bool) -> None:
        self._parser, self._use, self._sure = parser, use, sure
        self._at = _At.TEXT
        self._held = ""
        self._has_spoken = self._is_begun = False
        self._end = _ValueEnd()
        self.num_calls = 0

    @property
    def is_open(self) -> bool:
        """Whether the text so far ends inside a call."""
        return self._at in (_At.NAME, _At.ARGUMENTS)

    def feed(self, text: str) -> list[Piece]:
        """The pieces that more text brings."""
        if not self._use.tools:
            return [Said(text)] if text else []
        self._held += text
        pieces: list[Piece] = []
        while (before := (self._at, self._held)) and self._held:
            pieces += self._advance()
            if (self._at, self._held) == before:
                break
        return pieces

    def end(self) -> list[Piece]:
        """The pieces that were held back, when no more text comes."""
        held, self._held = self._held, ""
        if self._at is _At.TEXT:
            return self._say(held) if held.strip() or not self.num_calls else []
        if self._at not in (_At.HELD, _At.NAME):
            return []
        message = self._parser.parse(held, self._use.tools)
        pieces = self._say(message.content)
        for call in message.tool_calls if self._use.parallel else message.tool_calls[: max(1 - self.num_calls, 0)]:
            pieces += self._open(call.name)
            pieces.append(Written(self.num_calls - 1, json.dumps(call.arguments, ensure_ascii=False)))
        return pieces

    def _advance(self) -> list[Piece]:
        """Take what is certain from the held text."""
        if self._at is _At.TEXT:
            return self._text()
        if self._at is _At.NAME:
            return self._name()
        if self._at is _At.ARGUMENTS:
            return self._arguments()
        if self._at is _At.TAIL and (closer := _CLOSER.search(self._held)):
            self._held, self._at = self._held[closer.end() :], _At.TEXT
        if self._at is _At.OVER:
            self._held = ""
        return []

    def _text(self) -> list[Piece]:
        if not self._has_spoken and not self.num_calls and self._held.lstrip().startswith("{"):
            self._at = _At.NAME if self._sure else _At.HELD
            return []
        shown = self._parser.visible(self._held, ())
        self._held = self._held[len(shown) :]
        if any(opener in self._held for opener in OPENERS):
            self._at = _At.NAME if self._sure else _At.HELD
        return self._say(shown)

    def _name(self) -> list[Piece]:
        head = _HEAD.match(self._held)
        if head is None:
            return []
        name = _string(head["name"])
        if name is None or not (head["tag"] or self._is_offered(name)):
            self._at = _At.HELD
            return []
        if self.num_calls and not self._use.parallel:
            self._at = _At.OVER
            return []
        self._held, self._at = self._held[head.end() :], _At.ARGUMENTS
        self._end, self._is_begun = _ValueEnd(), False
        return self._open(name)

    def _is_offered(self, name: str) -> bool:
        return any(tool.name == name for tool in self._use.tools)

    def _arguments(self) -> list[Piece]:
        if not self._is_begun:
            self._held = self._held.lstrip()
            self._is_begun = bool(self._held)
        end = self._end.find(self._held)
        piece, self._held = self._held[:end], "" if end is None else self._held[end:]
        if end is not None:
            self._at = _At.TAIL
        return [Written(self.num_calls - 1, piece)] if piece else []

    def _open(self, name: str) -> list[Piece]:
        self.num_calls += 1
        return [Opened(self.num_calls - 1, f"call_{uuid.uuid4().hex[:24]}", name)]

    def _say(self, text: str) -> list[Piece]:
        self._has_spoken = self._has_spoken or bool(text)
        return [Said(text)] if text else []


class _ValueEnd:
    """Finds where a JSON value ends whose text comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, piece: str) -> int | None:
        """The place in the next piece at which the value has ended; None if it goes on."""
        at = 0
        if self._escaped and piece:
            self._escaped, at = False, 1
        while match := _MARK.search(piece, at):
            at, mark = match.end(), match[0]
            if self._in_string:
                at = self._string(mark, at, len(piece))
            elif mark == '"':
                self._in_string = True
            elif mark in "{[":
                self._depth += 1
            elif self._depth == 0:
                return match.start()
            elif mark in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at
        return None

    def _string(self, mark: str, at: int, length: int) -> int:
        """Where to go on after a mark inside a string; a backslash hides the character after it."""
        if mark == '"':
            self._in_string = False
        elif mark == "\\":
            self._escaped = at >= length
            return at + 1
        return at


def _string(text: str) -> str | None:
    """The text that a JSON string stands for, None if it is no JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def read_whole(reader: Reader, text: str) -> tuple[str, list[WholeCall]]:
    """What a whole reply says, and its calls."""
    said: list[str] = []
    calls: list[WholeCall] = []
    for piece in [*reader.feed(text), *reader.end()]:
        if isinstance(piece, Said):
            said.append(piece.text)
        elif isinstance(piece, Opened):
            calls.append(WholeCall(piece.id, piece.name))
        else:
            calls[piece.number].arguments += piece.text
    return "".join(said), calls
