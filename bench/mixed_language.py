"""Paragraphs whose language is known: English, Chinese and code out of the corpora, as their markup tells them apart.

What Chinese articles fence is mostly commands and what they print, tables and logs: a class of its own (`terminal`).
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator

import corpus

ENGLISH, CHINESE, CODE, TERMINAL = "en", "zh", "code", "terminal"
_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)
_LITERAL = re.compile(r"::\n\n((?:    [^\n]*\n+)+)")
_MARKUP = re.compile(r"^(?:[#=*.`|>\[+-]|\.\. |:\w|\d+\.|!\[|PEP:)")
Labelled = tuple[str, str]


def paragraphs() -> list[Labelled]:
    """Paragraphs with their languages, no two alike."""
    found = dict[str, str]()
    for label, texts in ((ENGLISH, _english()), (CHINESE, _chinese()), (CODE, _code()), (TERMINAL, _fenced("zh_lctt"))):
        for text in texts:
            found.setdefault(text, label)
    return [(label, text) for text, label in found.items()]


def _prose(text: str, fenced: re.Pattern[str]) -> Iterator[str]:
    for block in _BLANK.split(fenced.sub("\n\n", text)):
        lines = block.split("\n")
        if 40 <= len(block) <= 3000 and not any(_MARKUP.match(line) or line.startswith(("  ", "\t")) for line in lines):
            yield block


def _english() -> Iterator[str]:
    for name, fenced in (("en_peps", _LITERAL), ("en_rust_rfcs", _FENCE)):
        for row in corpus.texts(name):
            yield from (block for block in _prose(row["text"], fenced) if block.rstrip().endswith((".", ":", "?")))


def _chinese() -> Iterator[str]:
    for name in ("zh_lctt", "zh_modern_prose"):
        for row in corpus.texts(name):
            blocks = _prose(row["text"], _FENCE) if name == "zh_lctt" else iter(row["text"].split("\n"))
            yield from (block for block in blocks if len(_HAN.findall(block)) >= 8)


def _code() -> Iterator[str]:
    yield from _fenced("en_rust_rfcs")
    for row in corpus.texts("code_thealgorithms"):
        yield from _statements(row["text"])


def _fenced(name: str) -> Iterator[str]:
    for row in corpus.texts(name):
        for block in _FENCE.findall(row["text"]):
            if not _HAN.search(block):
                yield from (part for part in _BLANK.split(block.strip("\n")) if 40 <= len(part) <= 3000)


def _statements(source: str) -> Iterator[str]:
    """Statements of a file without docstrings."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return
    for node in body:
        documented = ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None
        text = ast.get_source_segment(source, node) or ""
        if not documented and not isinstance(node, ast.Expr) and 40 <= len(text) <= 3000:
            yield from (part for part in _BLANK.split(text) if len(part) >= 40)


def documents(labelled: list[Labelled], count: int, size: int = 12) -> Iterator[list[Labelled]]:
    """Documents of `size` paragraphs, drawn of all languages in shares that vary."""
    rng = random.Random(5)
    groups = {label: [item for item in labelled if item[0] == label] for label in (ENGLISH, CHINESE, CODE)}
    for _ in range(count):
        weights = [rng.random() for _ in groups]
        yield [rng.choice(groups[label]) for label in rng.choices(list(groups), weights, k=size)]
