"""XTuner's own format: pairs of an input and an output, with a system text in the first.

{"conversation": [{"system": "...", "input": "...", "output": "..."}, {"input": "...", "output": "..."}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lianlu.formats.examples.record import RecordError, kind_of, name_of, text_of
from lianlu.formats.examples.turns import conversation
from lianlu.formats.messages import Conversation

NAME = "xtuner"
SHAPE = '{"conversation": [{"system": "...", "input": "...", "output": "..."}]}'


def matches(raw: Mapping[str, Any]) -> bool:
    """Whether the record has turns with `input` and `output`."""
    turns = raw.get("conversation")
    first = turns[0] if isinstance(turns, list) and turns else None
    return isinstance(first, Mapping) and "output" in first and "input" in first


def convert(raw: Mapping[str, Any], name: str) -> Conversation:
    """Each pair as two messages; a pair without an input goes on with what was said. Raises: RecordError."""
    pairs = raw.get("conversation")
    if not isinstance(pairs, list):
        raise RecordError("no conversation" if pairs is None else f"the conversation is {kind_of(pairs)}, not a list")
    turns: list[dict[str, str]] = []
    for pair in pairs:
        if not isinstance(pair, Mapping):
            raise RecordError("a turn is not an object", kind_of(pair))
        texts = {key: text_of(pair.get(key), f"the {key}") for key in ("system", "input", "output")}
        turns += [{"role": "system", "content": texts["system"]}] if texts["system"].strip() else []
        turns += [{"role": "user", "content": texts["input"]}] if texts["input"].strip() or not turns else []
        turns.append({"role": "assistant", "content": texts["output"]})
    return conversation(name_of(raw, name), turns)
