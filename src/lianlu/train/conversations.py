"""Conversations as training examples: rendered, cut to length, and counted where something is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from lianlu.core.errors import DataError, RequestError
from lianlu.formats.messages import Conversation, read_conversations
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.packing import Segment, answer_segment

# Templates that print today's date get this one, so that a run does not depend on the day.
RENDER_DATE = date(2024, 1, 1)


@dataclass(frozen=True)
class Examples:
    """Rendered conversations with something to learn; `source[i]` made `segments[i]`, `skipped` counts the others."""

    segments: list[Segment]
    source: list[Conversation]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def lengths(self) -> list[int]:
        """Positions of each example."""
        return [segment.num_tokens for segment in self.segments]

    def first(self, max_tokens: int) -> list[Segment]:
        """Examples from the front that hold at most `max_tokens` together, and always one."""
        chosen: list[Segment] = []
        for segment in self.segments:
            max_tokens -= segment.num_tokens
            if max_tokens < 0 and chosen:
                break
            chosen.append(segment)
        return chosen


def read_split(data: Path, held_out: float) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out conversations of a folder, or of one file of which every n-th is held out. Raises: DataError."""
    if data.is_dir():
        return list(read_conversations(data / "train.jsonl")), list(read_conversations(data / "held_out.jsonl"))
    conversations = list(read_conversations(data))
    every = max(round(1 / held_out), 2)
    train = [item for index, item in enumerate(conversations) if index % every]
    return train, conversations[::every]


def make_examples(tokenizer: Tokenizer, conversations: Iterable[Conversation], max_length: int, cut: bool) -> Examples:
    """Render each conversation. Longer ones than `max_length` are cut or dropped; what has no target left is dropped.

    Raises: DataError for a tokenizer without a chat template.
    """
    tokenizer.today = RENDER_DATE
    examples = Examples([], [])
    for conversation in conversations:
        try:
            rendered = tokenizer.render(conversation.messages, conversation.tools)
        except RequestError as error:
            examples.skipped["refused by the template: " + error.message.splitlines()[0][:80]] += 1
            continue
        examples.skipped.update({"turns without a target": len(rendered.untrained)} if rendered.untrained else {})
        segment = answer_segment(rendered.ids, rendered.mask)
        if segment.num_tokens > max_length and not cut:
            examples.skipped["too long"] += 1
            continue
        examples.skipped.update(["cut"] if segment.num_tokens > max_length else [])
        segment = answer_segment(rendered.ids[: max_length + 1], rendered.mask[: max_length + 1])
        if segment.num_tokens == 0:
            examples.skipped["no answer to learn"] += 1
            continue
        examples.segments.append(replace(segment, source=len(examples.segments)))
        examples.source.append(conversation)
    return examples


def require_examples(examples: Examples, what: str, path: Path) -> None:
    """Raises: DataError if nothing is left, with the reasons."""
    if not examples.segments:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(examples.skipped.items())) or "the file is empty"
        raise DataError(f"{path} leaves no {what} conversations: {reasons}", hint="raise max_length, or give other data")
