"""Pairs of a chosen and a rejected answer: fine-tuning learns the chosen one.

{"prompt": "...", "chosen": "...", "rejected": "..."}                      TRL; texts or lists of messages
{"conversations": [...], "chosen": {"from": "gpt", "value": "..."}, ...}   LLaMA-Factory
{"instruction": "...", "input": "...", "chosen": "...", ...}               the same in Alpaca's names
{"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "..."}          Anthropic's hh-rlhf
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lianlu.formats.examples.alpaca import history
from lianlu.formats.examples.pairs import said
from lianlu.formats.examples.record import RecordError, name_of, text_of
from lianlu.formats.examples.sharegpt import turns_of
from lianlu.formats.examples.turns import conversation
from lianlu.formats.messages import Conversation

NAME = "preference"
SHAPE = '{"prompt": "...", "chosen": "...", "rejected": "..."} (the chosen answer is learnt)'
_PROMPTS = ("prompt", "question", "query")
_HH = re.compile(r"\n\n(Human|Assistant):[ ]?")


def matches(raw: Mapping[str, Any]) -> bool:
    """Whether the record has a chosen and a rejected answer."""
    return "chosen" in raw and "rejected" in raw


def convert(raw: Mapping[str, Any], name: str) -> Conversation:
    """The prompt and the chosen answer. Raises: RecordError."""
    chosen = raw.get("chosen")
    if chosen is None:
        raise RecordError("no chosen answer")
    if isinstance(chosen, str) and chosen.lstrip("\n").startswith("Human:"):
        return conversation(name_of(raw, name), _split("\n\n" + chosen.lstrip("\n")))
    answer = said("assistant", chosen)
    is_whole = len(answer) > 1 and isinstance(answer[0], Mapping)
    asked = [] if is_whole else _prompt(raw)
    return conversation(name_of(raw, name), [*asked, *answer], raw.get("tools"), raw.get("system"))


def _prompt(raw: Mapping[str, Any]) -> list[Any]:
    turns = turns_of(raw)
    if isinstance(turns, list):
        return turns
    if "instruction" in raw:
        parts = [text_of(raw.get(key), f"the {key}") for key in ("instruction", "input")]
        return [*history(raw.get("history")), *said("user", "\n".join(part for part in parts if part.strip()))]
    prompt = next((raw[key] for key in _PROMPTS if key in raw), None)
    if prompt is None:
        raise RecordError("no prompt")
    return said("user", prompt)


def _split(text: str) -> list[dict[str, str]]:
    """The turns of a text that marks them by "Human:" and "Assistant:"."""
    pieces = _HH.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": what.strip()} for who, what in zip(pieces[::2], pieces[1::2], strict=True)]
