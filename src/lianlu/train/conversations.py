"""Records of training data as token ids with marks on those that are learnt; where one cannot be used, the reason.

Conversations are rendered by the model's own template, documents are cut into pieces. No torch here: this is what other
processes do when there is much data (`rendering`).

A conversation is cut, or left out, beyond `max_length`. A document gives pieces of at most `max_length` inputs that follow
each other without a gap: each of its tokens, the end-of-text token included, is a target once. Its first input is the token
that texts begin with, or else the end-of-text token, as in pretraining.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from lianlu.core.errors import DataError, RequestError
from lianlu.formats.documents import Document
from lianlu.formats.examples.record import Raw, RecordError, kept
from lianlu.formats.examples.sources import Source
from lianlu.formats.examples.turns import UNTRAINED
from lianlu.formats.messages import Conversation
from lianlu.tokenizer.chat import Rendered
from lianlu.tokenizer.tokenizer import Tokenizer

# Templates that print today's date get this one, so that a run does not depend on the day.
RENDER_DATE = date(2024, 1, 1)
CUT, UNTRAINED_TURNS = "cut", "turns without a target"
_BLOCK_CHARS = 1 << 20
_REASON_CHARS = 120


@dataclass(frozen=True, slots=True)
class Piece:
    """Ids of one example; `mask[i]`: `ids[i]` is to be predicted. Nothing follows the last one that is."""

    ids: npt.NDArray[np.uint32]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record gives no example; `is_wrong` is False where the record is right and only not wanted."""

    reason: str
    detail: str
    is_wrong: bool
    record: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one record: examples, or a rejection.

    `is_understood`: it is a conversation or a document, whatever the template says to it. `question` is what the first answer
    replies to, `notes` is what people want to count.
    """

    place: int
    name: str
    pieces: tuple[Piece, ...] = ()
    question: str = ""
    notes: tuple[str, ...] = ()
    rejection: Rejection | None = None
    is_understood: bool = True
    continues: bool = False


class Renderer:
    """How one model writes examples. Raises: DataError if its tokenizer cannot write those of `sources`."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, cut: bool) -> None:
        self._tokenizer, self._max_length, self._cut = tokenizer, max_length, cut
        tokenizer.today = RENDER_DATE

    def outcome(self, source: Source, raw: Raw) -> Outcome:
        """Convert and render one record; never fails."""
        where = source.where(raw.place)
        understood = False
        try:
            item = source.convert(raw)
            understood = True
            name = item.id if item.id == where else f"{item.id} ({where})"
            if isinstance(item, Document):
                return Outcome(raw.place, name, tuple(self._document(item.text, raw.continues)), continues=raw.continues)
            piece, notes = self._conversation(item)
            return Outcome(raw.place, name, (piece,), _question(item), notes)
        except RecordError as error:
            rejection = Rejection(error.reason, error.detail, error.is_wrong, kept(raw))
            return Outcome(raw.place, where, (), rejection=rejection, is_understood=understood, continues=raw.continues)

    def _conversation(self, item: Conversation) -> tuple[Piece, tuple[str, ...]]:
        # a message is a token at least; templates are rendered once for every answer, each time from the beginning
        item = item.model_copy(update={"messages": item.messages[: self._max_length + 1]})
        rendered = self._rendered(item)
        ids, mask = np.asarray(rendered.ids, dtype=np.uint32), np.asarray(rendered.mask, dtype=bool)
        mask[:1] = False  # nothing comes before the first token that could predict it
        unwanted = set(item.meta.get(UNTRAINED) or ())
        if unwanted:
            _unmark(mask, [index for index in _answers(item) if index not in rendered.untrained], unwanted)
        notes = (UNTRAINED_TURNS,) * len(set(rendered.untrained) - unwanted)
        end = _end(mask)
        if end > self._max_length + 1:
            if not self._cut:
                raise RecordError("too long", f"{end - 1} tokens, max_length is {self._max_length}", is_wrong=False)
            end = _end(mask[: self._max_length + 1])
            notes += (CUT,)
        if not end:
            where = " within max_length" if CUT in notes else ""
            raise RecordError(f"no answer to learn{where}", is_wrong=False)
        return Piece(ids[:end], mask[:end]), notes

    def _rendered(self, item: Conversation) -> Rendered:
        try:
            return self._tokenizer.render(item.messages, item.tools)
        except (RequestError, DataError) as error:
            raise RecordError(error.message.splitlines()[0][:_REASON_CHARS]) from error

    def _document(self, text: str, continues: bool) -> Iterator[Piece]:
        end = self._tokenizer.end_of_text
        assert end is not None
        start = self._tokenizer.bos_id if self._tokenizer.adds_bos and self._tokenizer.bos_id is not None else end
        blocks = [np.asarray(ids, dtype=np.uint32) for ids in self._encoded(text)]
        ids = np.concatenate([np.array([start], dtype=np.uint32), *blocks, np.array([] if continues else [end], dtype=np.uint32)])
        for at in range(0, len(ids) - 1, self._max_length):
            piece = ids[at : at + self._max_length + 1]
            mask = np.ones(len(piece), dtype=bool)
            mask[0] = False
            yield Piece(piece, mask)

    def _encoded(self, text: str) -> Iterator[Sequence[int]]:
        """Ids of a text, block by block where it is long: the library's memory grows with what it is given at once."""
        at = 0
        while at < len(text):
            end = min(at + _BLOCK_CHARS, len(text))
            if end < len(text):
                last = max(text.rfind("\n", at, end), text.rfind(" ", at, end))
                end = last if last > at else end
            yield self._tokenizer.encode(text[at:end]) if at == 0 else self._tokenizer.encode_within(text[at:end])
            at = end


def require_abilities(tokenizer: Tokenizer, sources: Sequence[Source]) -> None:
    """Raises: DataError if `tokenizer` lacks what it takes to write the examples of `sources`."""
    is_text = {source.format == "text" for source in sources}
    if True in is_text and tokenizer.end_of_text is None:
        raise DataError("the tokenizer has no token that ends a text", hint="texts need one, such as <|endoftext|>")
    if False in is_text and not tokenizer.has_chat_template:
        hint = "use an instruct model, put a chat_template.jinja beside its tokenizer, or train on plain text"
        raise DataError("the model has no chat template to write conversations with", hint=hint)


def _end(mask: npt.NDArray[np.bool_]) -> int:
    """Length up to and with the last token that is learnt, 0 if there is none."""
    used = np.flatnonzero(mask)
    return int(used[-1]) + 1 if len(used) else 0


def _answers(item: Conversation) -> list[int]:
    return [index for index, message in enumerate(item.messages) if message.role == "assistant"]


def _unmark(mask: npt.NDArray[np.bool_], answers: Sequence[int], unwanted: set[int]) -> None:
    """Take the marks off the answers that are not to be learnt. Raises: RecordError where they cannot be told apart."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    spans = edges.reshape(-1, 2)
    if len(spans) != len(answers):
        raise RecordError("the template runs answers together, so that weight 0 cannot be kept apart")
    for index, (start, stop) in zip(answers, spans.tolist(), strict=True):
        if index in unwanted:
            mask[start:stop] = False


def _question(item: Conversation) -> str:
    """What stands before the first answer."""
    first = _answers(item)[0]
    return item.messages[first - 1].content if first else ""
