"""Rules for source code: what no person wrote, what belongs to somebody else's repository, what is data and no code.

DeepSeek-Coder (Guo et al. 2024, arXiv 2401.14196, section 2.1): line lengths, letters, XML, visible text of HTML, size of
JSON and YAML. StarCoder2 (arXiv 2402.19173): encoded data, licences. NeMo Curator's settings: lines, share of comments,
characters a token. Marks and names that generators leave, folders of other people's code and white space (minified code) are
ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from lianlu.data.code.lexer import COMMENT, pieces
from lianlu.data.code.markup import visible_text
from lianlu.data.licences.expressions import terms
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.thresholds import Limits

_LETTERS = re.compile(r"[^\W\d_]+")
_HEAD_LINES = 8
_ENCODED = re.compile(
    r"[A-Za-z0-9+/]{64}(?:\n?[A-Za-z0-9+/]{4})*={0,2}"  # base64
    r"|(?:(?:\\x|0x)[0-9a-fA-F]{2}[,\s]*+){8,}|\b[0-9a-fA-F]{64,}+|(?:\\u[0-9a-fA-F]{4}){8,}"
)
_SUBWORD = re.compile(r"[A-Z]?[a-z]{1,6}|[A-Z]{1,4}|\d{1,2}|[^\sA-Za-z0-9]|\n[ \t]*|[ \t]{2,}")


def signals(view: TextView, limits: Limits, lang: str = "", path: str = "", licence: str = "") -> Iterator[tuple[str, float]]:
    """What the rules look at, in order; lengths in characters, blank lines not counted, shares of characters (0..1)."""
    text = view.text
    size = max(len(text), 1)
    yield "min_chars", len(text)
    yield "max_chars", len(text)
    raw = text.split("\n")
    yield "min_lines", len(view.lines)
    yield "max_lines", len(view.lines)
    yield "max_mean_line_length", sum(map(len, raw)) / max(len(view.lines), 1)
    yield "max_line_length", max(map(len, raw))
    yield "min_alpha_chars", sum(map(len, _LETTERS.findall(text))) / size
    yield "max_xml_declarations", "<?xml version=" in text[:100] and "<xsl:stylesheet" not in text[:1000] and lang != "xslt"
    yield from _origin(view, limits, path)
    yield "max_licence_terms", terms(licence)
    yield "max_unlicensed", not licence
    yield "min_space_chars", 1 - view.num_word_chars / size
    encoded = [len(match[0]) for match in _ENCODED.finditer(text)]
    yield "max_encoded_chars", sum(encoded) / size
    yield "max_encoded_run", max(encoded, default=0)
    if lang == "html":
        visible = len(visible_text(text))
        yield "min_visible_chars", visible
        yield "min_visible_share", visible / size
    share = sum(len(piece) for kind, piece in pieces(text, lang) if kind == COMMENT) / size
    yield "min_comment_share", share
    yield "max_comment_share", share
    yield "min_chars_per_token", size / max(num_subwords(text), 1)


def _origin(view: TextView, limits: Limits, path: str) -> Iterator[tuple[str, float]]:
    """Marks and names that say that a program or another project is the author."""
    head = "\n".join(view.lines[:_HEAD_LINES]).lower()
    yield "max_generated_marks", sum(mark in head for mark in limits.get("generated_marks", ()))
    *folders, name = path.lower().split("/")
    yield "max_generated_names", sum(fnmatchcase(name, pattern) for pattern in limits.get("generated_names", ()))
    yield "max_vendored_folders", sum(folder in limits.get("vendored_folders", ()) for folder in folders)


def num_subwords(text: str) -> int:
    """About how many tokens a byte-pair encoder makes of code: parts of words up to six letters, digit pairs, marks, indents."""
    return len(_SUBWORD.findall(text))
