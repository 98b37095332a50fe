"""Words of source code for comparing files: the same code with other indentation, line breaks or quotes has the same words.

InternLM2 (arXiv 2403.17297, section 3.1.2) compares files by a tokenizer that does not see indentation. Here a token of
code is an identifier or number with the operators behind it, whatever the space between them (`f(x) + 1` is `f(`, `x)+`,
`1`), so that a shingle of five tokens spans as much as in prose, and `a - b` still differs from `a + b`. Comments and
strings give their words alone, since their marks depend on the layout.
"""

from __future__ import annotations

import re

from lianlu.data.code.lexer import CODE, pieces
from lianlu.data.rules.characters import CJK

_WORD = re.compile(f"[{CJK}]|[^\\W{CJK}]+")
_TOKEN = re.compile(r"\w+[^\w\s]*|[^\w\s]+")
_SPACE_AT_OPERATOR = re.compile(r"\s+(?=[^\w\s])|(?<=[^\w\s])\s+")
_CONTINUED = re.compile(r"\\\r?\n")


def shingle_tokens(text: str, lang: str = "") -> list[str]:
    """The tokens of a file in order; `lang` as in `Document.lang`, which tells what a comment is."""
    tokens: list[str] = []
    for kind, piece in pieces(_CONTINUED.sub(" ", text), lang):
        tokens += _TOKEN.findall(_SPACE_AT_OPERATOR.sub("", piece)) if kind == CODE else _WORD.findall(piece)
    return tokens
