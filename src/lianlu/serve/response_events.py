"""A response as it comes about: the news of one sequence become items, and the events that tell of them.

`Narrator` is the state machine: it opens and closes items as the reply is read, yields the events of the API as JSON values,
and has the finished items in the end; a response that is not streamed goes the same way, unheard. `EventWriter` numbers the
events and writes them; the one that comes with each token is one string put together from constant parts.

    response.created, .in_progress, then for each item .output_item.added, .content_part.added, .output_text.delta ... .done or
    .function_call_arguments.delta ... .done, .output_item.done, and at the end .completed, .incomplete or .failed

Source: the OpenAI API reference (streaming events of the responses API).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

from lianlu.client.base import TokenLogprob
from lianlu.engine.sequence import Event
from lianlu.serve.exchange import as_bytes
from lianlu.serve.reading import Opened, Piece, Reader, Said, WholeCall
from lianlu.serve.replies import Json
from lianlu.serve.response_items import Status, call_item, entries, message_item, new_id, text_part

TEXT_DELTA = "response.output_text.delta"


@dataclass
class _Text:
    """An open message."""

    id: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass
class _Call:
    """An open call."""

    id: str
    call: WholeCall


class Narrator:
    """Tells of one reply; `items` are those that are finished, `calls` and `text` what the reply comes to."""

    def __init__(self, reader: Reader, wants_logprobs: bool) -> None:
        self._reader, self._wants_logprobs = reader, wants_logprobs
        self._open: _Text | _Call | None = None
        self._pending: list[TokenLogprob] = []
        self.items: list[Json] = []
        self.calls: list[WholeCall] = []
        self.text = ""

    def feed(self, event: Event) -> Iterator[Json]:
        """The events that news of the sequence bring; with the last news all items are finished."""
        self._pending += event.logprobs if self._wants_logprobs else ()
        for piece in self._reader.feed(event.text):
            yield from self._tell(piece)
        if event.finish_reason is not None:
            for piece in self._reader.end():
                yield from self._tell(piece)
            if self._open is None and not self.items:
                yield from self._tell(Said(""))
            yield from self._close("incomplete" if event.finish_reason == "length" else "completed")

    def _tell(self, piece: Piece) -> Iterator[Json]:
        if isinstance(piece, Said):
            yield from self._say(piece.text)
        elif isinstance(piece, Opened):
            yield from self._close("completed")
            self._open, self._pending = _Call(new_id("fc"), WholeCall(piece.id, piece.name)), []
            yield self._event("output_item.added", item=call_item(self._open.id, "in_progress", self._open.call))
        elif isinstance(self._open, _Call):
            self._open.call.arguments += piece.text
            yield self._event("function_call_arguments.delta", item_id=self._open.id, delta=piece.text)

    def _say(self, text: str) -> Iterator[Json]:
        if not isinstance(self._open, _Text):
            yield from self._close("completed")
            self._open = _Text(new_id("msg"))
            yield self._event("output_item.added", item=message_item(self._open.id, "in_progress", []))
            yield self._event("content_part.added", item_id=self._open.id, content_index=0, part=text_part(""))
        logprobs, self._pending = self._pending, []
        self._open.pieces.append(text)
        self._open.logprobs += logprobs
        yield self._event("output_text.delta", item_id=self._open.id, content_index=0, logprobs=entries(logprobs), delta=text)

    def _close(self, status: Status) -> Iterator[Json]:
        """Finish the open item, if there is one."""
        item, self._open = self._open, None
        if isinstance(item, _Text):
            text = "".join(item.pieces)
            part = text_part(text, item.logprobs)
            place: dict[str, Any] = {"item_id": item.id, "content_index": 0}
            yield self._event("output_text.done", **place, logprobs=part["logprobs"], text=text)
            yield self._event("content_part.done", **place, part=part)
            self.text += text
            yield self._done(message_item(item.id, status, [part]))
        elif item is not None:
            call = item.call
            self.calls.append(call)
            yield self._event("function_call_arguments.done", item_id=item.id, name=call.name, arguments=call.arguments)
            yield self._done(call_item(item.id, status, call))

    def _done(self, item: Json) -> Json:
        event = self._event("output_item.done", item=item)
        self.items.append(item)
        return event

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": f"response.{kind}", "output_index": len(self.items)} | fields


class EventWriter:
    """Writes the events of one response, numbered from 0."""

    def __init__(self) -> None:
        self._number = 0
        self._item = ""
        self._before = ""

    def write(self, event: Json) -> bytes:
        """An event as it is sent."""
        number, self._number = self._number, self._number + 1
        if event["type"] == TEXT_DELTA and not event["logprobs"]:
            return self._text(event, number)
        return f"event: {event['type']}\ndata: ".encode() + as_bytes(event | {"sequence_number": number}) + b"\n\n"

    def _text(self, event: Json, number: int) -> bytes:
        if self._item != event["item_id"]:
            self._item = event["item_id"]
            constant = {key: value for key, value in event.items() if key != "delta"}
            self._before = f'event: {TEXT_DELTA}\ndata: {json.dumps(constant)[:-1]}, "delta": '
        line = f'{self._before}{encode_basestring(event["delta"])}, "sequence_number": {number}}}\n\n'
        return line.encode("utf-8", "replace")
