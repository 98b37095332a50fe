"""Conversations to ids and loss mask, both from the same rendering.

The model's own template is used. What an assistant has to produce (its text, its tool calls, its end token) is found

- by the template's `{% generation %}` tags, if it has them (the built-in templates do), or
- by rendering the conversation up to each assistant turn with the opening of a reply, and up to its end. Both have to be
  beginnings of the whole; a turn for which they are not (templates that drop the thinking of earlier turns, or move the
  tools to the last question) is context, not a target, because at that place the model would not have written it so. It is
  listed in `Rendered.untrained`; to train on it too, make the conversation end there.

The text is cut at the beginning of each assistant turn and encoded in pieces, so that the ids before it are those the
engine feeds when the reply is generated. Control tokens spelled out in messages stay text: a shield character is put into
each before rendering and removed afterwards.

Templates that know no tools are replaced by the built-in `internlm2` or `chatml` when a conversation has some.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from importlib import resources
from itertools import islice
from typing import Any

from lianlu.core.errors import DataError, LianluError, RequestError
from lianlu.formats.messages import Message, ToolSpec
from lianlu.tokenizer.backend import Loaded, Run, specials_pattern, without_surrogates
from lianlu.tokenizer.template import ChatTemplate
from lianlu.tokenizer.tool_calls import MARKERS

Spans = list[tuple[int, int]]
# 32 code points that Unicode keeps free of characters, then the private use area
_SPARE = (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF900))
_SYSTEM = re.compile(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", re.DOTALL)


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids; `mask[i]`: an assistant has to produce `ids[i]`. `untrained`: assistant messages left out."""

    ids: list[int]
    mask: list[bool]
    text: str
    untrained: tuple[int, ...] = ()


def builtin(name: str) -> str:
    """The source of a built-in template, `chatml` or `internlm2`."""
    return resources.files("lianlu.tokenizer").joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")


class ChatFormat:
    """How one tokenizer writes conversations."""

    def __init__(self, loaded: Loaded) -> None:
        """Compile the templates. Raises: DataError for one that is not valid."""
        self._backend = loaded.backend
        self._name = loaded.name
        self._own = {name: ChatTemplate(source, loaded.name) for name, source in loaded.templates.items()}
        self._pattern = specials_pattern(loaded.backend.specials)
        told = {text: index for text, index in loaded.backend.specials.items() if text not in MARKERS}
        self._shielded = {True: _anywhere(told), False: _anywhere(loaded.backend.specials)}
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        self._variables = {name: loaded.config[name] for name in names if isinstance(loaded.config.get(name), str)}
        self._fallback = self._find_fallback()

    @property
    def is_there(self) -> bool:
        """Whether conversations can be rendered at all."""
        return bool(self._own) or self._fallback is not None

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec], reply: bool, today: date | None) -> Rendered:
        """See `Tokenizer.render`."""
        if not messages:
            raise RequestError("a conversation needs at least one message", hint="add a message")
        try:
            rendering = _Rendering(self, messages, tools, today)
        except RecursionError as error:
            raise RequestError("the tools or arguments are nested too deeply", hint="make them flatter") from error
        text, spans, untrained = rendering.marked(reply) if rendering.template.marks_generation else rendering.by_prefixes(reply)
        ids: list[int] = []
        mask: list[bool] = []
        for part_ids, is_target in self._encode(text, spans, rendering.shield):
            ids += part_ids
            mask += [is_target] * len(part_ids)
        return Rendered(ids, mask, text.replace(rendering.shield, ""), untrained)

    def choose(self, needs_tools: bool) -> ChatTemplate:
        """The template for a conversation with or without tools. Raises: RequestError if there is none."""
        own = self._own.get("tool_use" if needs_tools else "default") or self._own.get("default")
        if own and (own.knows_tools or not needs_tools):
            return own
        if self._fallback:
            return self._fallback
        lack = "has a chat template that knows no tools" if own else "has no chat template"
        raise RequestError(
            f"{self._name} {lack}", hint="use an instruct model, or put a chat_template.jinja beside its tokenizer"
        )

    def variables(self, template: ChatTemplate, today: date | None) -> dict[str, Any]:
        """What a template may look at besides the conversation."""
        given = {**self._variables, "strftime_now": (today or datetime.now()).strftime}
        own = self._own.get("default")
        if template is self._fallback and own is not None:
            with contextlib.suppress(LianluError):
                if found := _SYSTEM.search(own.render([{"role": "user", "content": "x"}], (), False, given)):
                    given["default_system"] = found[1]
        return given

    def shield(self, value: Any, mark: str, is_assistant: bool) -> Any:
        """`value` with `mark` put into every control token that its texts spell out; an assistant may write tool calls."""
        if isinstance(value, str):
            pattern = self._shielded[is_assistant]
            text = without_surrogates(value)
            return pattern.sub(rf"\1{mark}", text) if pattern else text
        if isinstance(value, Mapping):
            return {self.shield(key, mark, is_assistant): self.shield(item, mark, is_assistant) for key, item in value.items()}
        return [self.shield(item, mark, is_assistant) for item in value] if isinstance(value, list) else value

    def end_of_turn(self, turn: str) -> int:
        """Where the target ends in the text of a turn: after its last control token if only white space follows."""
        last = max((match.end() for match in self._pattern.finditer(turn)), default=0) if self._pattern else 0
        return last if last and not turn[last:].strip() else len(turn)

    def _find_fallback(self) -> ChatTemplate | None:
        specials = self._backend.specials
        name = "internlm2" if "<|action_start|>" in specials else "chatml" if "<|im_start|>" in specials else ""
        return ChatTemplate(builtin(name), f"lianlu ({name})") if name else None

    def _encode(self, text: str, spans: Spans, shield: str) -> Iterator[tuple[list[int], bool]]:
        """Ids of the parts of the text and whether they are a target."""
        runs: list[Run] = []
        targets: list[bool] = []
        at = 0
        for start, end in [*spans, (len(text), len(text))]:
            for part, is_target in ((text[at:start], False), (text[start:end], True)):
                found = list(self._runs(part, shield))
                runs += found
                targets += [is_target] * len(found)
            at = end
        return zip(self._backend.encode_runs(runs), targets, strict=True)

    def _runs(self, part: str, shield: str) -> Iterator[Run]:
        """A part as one run, or cut at its control tokens if there are shielded ones in it."""
        if shield not in part:
            return iter([(part, True)] if part else [])
        pieces = self._pattern.split(part) if self._pattern else [part]
        return ((piece.replace(shield, ""), number % 2 == 1) for number, piece in enumerate(pieces) if piece)


class _Rendering:
    """One conversation on its way through a template."""

    def __init__(self, form: ChatFormat, messages: Sequence[Message], tools: Sequence[ToolSpec], today: date | None) -> None:
        raw = [_as_dict(message) for message in messages]
        raw_tools = [{"type": "function", "function": tool.model_dump()} for tool in tools]
        self.shield, *marks = _unused([raw, raw_tools])
        self.template = form.choose(bool(tools) or any(m.tool_calls or m.role == "tool" for m in messages))
        self._form = form
        self._marks = (marks[0], marks[1])
        self._messages = [form.shield(item, self.shield, item["role"] == "assistant") for item in raw]
        self._tools = form.shield(raw_tools, self.shield, False)
        self._variables = form.variables(self.template, today)

    def marked(self, reply: bool) -> tuple[str, Spans, tuple[int, ...]]:
        """Text and spans by the template's own generation tags."""
        begin, end = self._marks
        text = self.template.render(self._messages, self._tools, reply, self._variables, self._marks)
        pieces = re.split(f"[{begin}{end}]", text)
        spans: Spans = []
        at = 0
        for number, piece in enumerate(pieces):
            if number % 2:
                spans.append((at, at + len(piece)))
            at += len(piece)
        return "".join(pieces), spans, ()

    def by_prefixes(self, reply: bool) -> tuple[str, Spans, tuple[int, ...]]:
        """Text and spans by comparing renderings of the beginnings of the conversation with the whole."""
        text = self._render(len(self._messages), reply)
        spans: Spans = []
        untrained: list[int] = []
        turns = [index for index, message in enumerate(self._messages) if message["role"] == "assistant"]
        for index in turns:
            if span := self._span(text, index):
                spans.append(span)
            else:
                untrained.append(index)
        if any(turns) and not spans and not reply:  # a greeting before any question is never generated, so no loss
            raise DataError(
                f"the chat template of {self.template.name} writes every assistant turn otherwise than it opens a reply",
                hint="training with this template is not possible: give the tokenizer another chat_template.jinja",
            )
        return text, spans, tuple(untrained)

    def _span(self, text: str, index: int) -> tuple[int, int] | None:
        """Where message `index` stands as a target in `text`, or None if the template does not keep it as generated."""
        try:
            head = self._render(index, True)
            tail = self._render(index + 1, False)
        except LianluError:
            return None
        if not (text.startswith(tail) and tail.startswith(head) and len(head) < len(tail)):
            return None
        return len(head), len(head) + self._form.end_of_turn(tail[len(head) :])

    def _render(self, count: int, reply: bool) -> str:
        return self.template.render(self._messages[:count], self._tools, reply, self._variables)


def _as_dict(message: Message) -> dict[str, Any]:
    """A message as templates expect it: calls in OpenAI's nesting, arguments as an object, nothing that is empty."""
    raw: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        raw["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        raw["tool_call_id"] = message.tool_call_id
    if message.name:
        raw["name"] = message.name
    return raw


def _anywhere(specials: Mapping[str, int]) -> re.Pattern[str] | None:
    """A pattern for the first character of every control token in a text, of overlapping ones too."""
    pattern = specials_pattern(specials)
    return re.compile(f"(?={pattern.pattern[1:-1]})(.)", re.DOTALL) if pattern else None


def _unused(value: Any) -> list[str]:
    """Three characters that occur nowhere in the texts of `value`."""
    texts = list(_texts(value))
    free = (chr(code) for code in _SPARE if not any(chr(code) in text for text in texts))
    return list(islice(free, 3))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
