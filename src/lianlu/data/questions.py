"""Questions and answers about one symbol of a module, made from its docstring and signature.

Three kinds: what it does (its first paragraph), which arguments it takes, and which symbol does a described thing.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from lianlu.data.docstrings import Symbol

MIN_ANSWER_WORDS = 5
MAX_PARAMETERS = 6
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])")
_UNFIT = re.compile(
    r">>>|:param|@param|https?://|^\s*[-*+] |^[\w.]+\(.*\)\s*(?:->|--|$)|\s{3,}|XXX|TODO|Deprecated", re.MULTILINE
)
_ROLE = re.compile(r":[a-z:]+:`~?\.?([^`]*)`")
_VERB = re.compile(r"[A-Z][a-z]+(?:s)? (?:a|an|the|all|any|each|if|whether|this|one|some|given|its|or|and|[a-z]+)\b")
WHAT = ("What does `{}` do?", "Explain what `{}` does.", "What is `{}` for?", "In short, what does `{}` do?")
WHAT_CLASS = ("What is the class `{}` for?", "Describe the class `{}`.", "What is `{}`?")
ARGUMENTS = ("Which arguments does `{}` take?", "What parameters does `{}` have?", "What arguments can I give to `{}`?")
WHICH = ("Which {} in `{}` has this purpose: {}", "I need a {} from the module `{}`: {} Which one is it?")


@dataclass(frozen=True)
class Question:
    """A question about a symbol and the right answer."""

    kind: Literal["what", "arguments", "which"]
    text: str
    answer: str


def has_good_answer(symbol: Symbol, max_words: int) -> bool:
    """Whether the docstring opens with a paragraph that can stand as an answer of at most `max_words`."""
    paragraph = symbol.doc.split("\n\n")[0]
    answer = _first_paragraph(symbol)
    clean = answer.isascii() and answer[:1].isupper() and answer.endswith((".", "!")) and not _UNFIT.search(paragraph)
    return clean and MIN_ANSWER_WORDS <= len(answer.split()) <= max_words


def _first_paragraph(symbol: Symbol) -> str:
    """The first paragraph on one line, with a full stop."""
    text = " ".join(_ROLE.sub(r"\1", symbol.doc.split("\n\n")[0]).replace("``", "`").split())
    return text + "." if text and text[-1].isalnum() else text


def questions(symbol: Symbol, rng: random.Random) -> list[Question]:
    """The questions this symbol is good for, in random order, most often with `what` first."""
    found = [_what(symbol, rng)]
    if 1 <= len(symbol.parameters) <= MAX_PARAMETERS and symbol.kind != "class":
        found.append(_arguments(symbol, rng))
    if which := _which(symbol, rng):
        found.append(which)
    first = found[0] if rng.random() < 0.55 else rng.choice(found)
    return [first, *(question for question in found if question is not first)]


def _what(symbol: Symbol, rng: random.Random) -> Question:
    phrasing = rng.choice(WHAT_CLASS if symbol.kind == "class" else WHAT)
    return Question("what", phrasing.format(symbol.full_name), _first_paragraph(symbol))


def _arguments(symbol: Symbol, rng: random.Random) -> Question:
    *before, last = [f"`{name}`" for name in symbol.parameters]
    listed = f"{', '.join(before)} and {last}" if before else last
    answer = f"`{symbol.full_name}` takes {listed}: `{symbol.module}.{symbol.signature}`."
    return Question("arguments", rng.choice(ARGUMENTS).format(symbol.full_name), answer)


def _which(symbol: Symbol, rng: random.Random) -> Question | None:
    """Ask for the symbol by the first sentence of its docstring, if that does not name it."""
    sentence = _SENTENCE_END.split(_first_paragraph(symbol))[0]
    own_name = symbol.name.split(".")[-1].lower()
    if (
        symbol.kind != "function"
        or not _VERB.match(sentence)
        or own_name in sentence.lower()
        or not 5 <= len(sentence.split()) <= 25
    ):
        return None
    text = rng.choice(WHICH).format(symbol.kind, symbol.module, sentence)
    return Question("which", text, f"Use `{symbol.full_name}`.")
