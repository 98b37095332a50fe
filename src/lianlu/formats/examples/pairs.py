"""A question and its answer, by whatever names the fields have: GSM8K, MetaMath, MATH, prompt and completion, and others.

{"question": "...", "answer": "..."}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lianlu.formats.examples.openai import require_wanted
from lianlu.formats.examples.record import RecordError, name_of
from lianlu.formats.examples.turns import conversation
from lianlu.formats.messages import Conversation

NAME = "pairs"
SHAPE = '{"question": "...", "answer": "..."} or {"prompt": "...", "completion": "..."}'
PAIRS = (
    ("question", "answer"),
    ("question", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("problem", "solution"),
    ("input", "output"),
)
_SYSTEM = ("system", "system_prompt")


def matches(raw: Mapping[str, Any]) -> bool:
    """Whether the record has the fields of exactly one pair."""
    return len(_found(raw)) == 1 and not ("instruction" in raw and "output" in raw)


def convert(raw: Mapping[str, Any], name: str) -> Conversation:
    """One question and one answer; either may be a list of messages. Raises: RecordError."""
    found = _found(raw)
    if len(found) != 1:
        known = " or ".join("/".join(pair) for pair in (found or PAIRS))
        raise RecordError(f"more than one pair ({known})" if found else f"no pair of {known}")
    require_wanted(raw)
    question, answer = (raw[key] for key in found[0])
    system = next((raw[key] for key in _SYSTEM if key in raw), None)
    return conversation(name_of(raw, name), [*said("user", question), *said("assistant", answer)], raw.get("tools"), system)


def said(role: str, value: Any) -> list[Any]:
    """A text as one turn; a list of messages as it is, one message as a list."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return value
    return [value] if isinstance(value, Mapping) else [{"role": role, "content": value}]


def _found(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if pair[0] in raw and pair[1] in raw]
