"""What a quality card is measured on: tokens with marks on those that count. Imports no torch.

Conversations are rendered by the model's template and judged on the assistant's tokens; documents are judged on all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lianlu.core.errors import DataError, RequestError
from lianlu.formats.documents import read_documents
from lianlu.formats.messages import read_conversations
from lianlu.tokenizer.tokenizer import Tokenizer

RENDER_DATE = date(2024, 1, 1)
HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Judged:
    """Ids of one sequence; `mask[i]`: the prediction of `ids[i]` counts."""

    ids: list[int]
    mask: list[bool]


def judged_sequences(data: Path, tokenizer: Tokenizer, max_length: int, max_tokens: int) -> list[Judged]:
    """Sequences of at most `max_length` from the front of `data` until they hold `max_tokens`.

    Raises: DataError if nothing in `data` can be judged.
    """
    conversations = _conversations_file(data)
    made = _from_documents(data, tokenizer) if conversations is None else _from_conversations(conversations, tokenizer)
    chosen: list[Judged] = []
    for sequence in made:
        short = Judged(sequence.ids[:max_length], sequence.mask[:max_length])
        if any(short.mask[1:]):
            chosen.append(short)
            max_tokens -= len(short.ids)
        if max_tokens <= 0:
            break
    if not chosen:
        raise DataError(f"{data} holds nothing to measure quality on", hint="give conversations with answers, or documents")
    return chosen


def _conversations_file(data: Path) -> Path | None:
    """The held-out conversations in `data`, or None where it holds documents."""
    if (data / "held_out.jsonl").is_file():
        return data / "held_out.jsonl"
    if data.suffix == ".jsonl" and data.is_file():
        with open(data, "rb") as file:
            head = file.read(HEAD_BYTES)
        return data if b'"messages"' in head or b'"conversations"' in head else None
    return None


def _from_conversations(path: Path, tokenizer: Tokenizer) -> Iterator[Judged]:
    tokenizer.today = RENDER_DATE
    for conversation in read_conversations(path):
        try:
            rendered = tokenizer.render(conversation.messages, conversation.tools)
        except RequestError:
            continue
        yield Judged(rendered.ids, rendered.mask)


def _from_documents(data: Path, tokenizer: Tokenizer) -> Iterable[Judged]:
    first = list(tokenizer.eos_ids[:1])
    for document in read_documents(data):
        ids = [*first, *tokenizer.encode(document.text)]
        yield Judged(ids, [True] * len(ids))
