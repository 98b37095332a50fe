"""Alpaca: an instruction, perhaps an input it is about, and the output; with earlier turns in `history`.

    {"instruction": "Translate.", "input": "Bonjour", "output": "Hello", "system": "...", "history": [["Q", "A"], ...]}

Instruction and input are joined by a line feed, as LLaMA-Factory and XTuner do. Dolly's names (context, response) are
understood too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lianlu.formats.examples.record import RecordError, kind_of, name_of, text_of
from lianlu.formats.examples.turns import conversation
from lianlu.formats.messages import Conversation

NAME = "alpaca"
SHAPE = '{"instruction": "...", "input": "...", "output": "..."}'
_INPUTS, _OUTPUTS = ("input", "context"), ("output", "response")


def matches(raw: Mapping[str, Any]) -> bool:
    """Whether the record has the fields of this format."""
    return "instruction" in raw and any(key in raw for key in _OUTPUTS)


def convert(raw: Mapping[str, Any], name: str) -> Conversation:
    """A conversation of one question, after those of its history. Raises: RecordError."""
    if "instruction" not in raw and not _field(raw, _INPUTS):
        raise RecordError("no instruction")
    if not any(key in raw for key in _OUTPUTS):
        raise RecordError("no output")
    parts = [text_of(raw.get("instruction"), "the instruction"), text_of(_field(raw, _INPUTS), "the input")]
    turns = list(history(raw.get("history")))
    turns.append({"role": "user", "content": "\n".join(part for part in parts if part.strip())})
    turns.append({"role": "assistant", "content": text_of(_field(raw, _OUTPUTS), "the output")})
    return conversation(name_of(raw, name), turns, raw.get("tools"), raw.get("system"))


def history(value: Any) -> list[dict[str, str]]:
    """Earlier turns: pairs of a question and its answer. Raises: RecordError."""
    turns: list[dict[str, str]] = []
    if value and not isinstance(value, list):
        raise RecordError("the history is not a list of pairs", f"it is {kind_of(value)}")
    for pair in value or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RecordError("the history is not a list of pairs", f"it has {kind_of(pair)}")
        turns.append({"role": "user", "content": text_of(pair[0], "a question of the history")})
        turns.append({"role": "assistant", "content": text_of(pair[1], "an answer of the history")})
    return turns


def _field(raw: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((raw[key] for key in names if key in raw), None)
