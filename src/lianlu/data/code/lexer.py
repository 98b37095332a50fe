"""Comments and strings of source code, told apart from the rest by one regular expression a language.

Nothing is parsed: this is enough to count comments, to look for imports where code is, and to compare code without its
layout. Limits: nested comments (Rust) end at the first end mark, JavaScript's regular expressions and Ruby's and shell's
here-documents are taken for code. A language that is not known has no comments. Linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

CODE, COMMENT, STRING = "code", "comment", "string"
_SINGLE = r"'(?:[^'\\\n]++|\\[\s\S])*'"
_DOUBLE = r'"(?:[^"\\\n]++|\\[\s\S])*"'
_PLAIN = f"{_SINGLE}|{_DOUBLE}"
_CHARACTER = r"'(?:[^'\\\n]|\\[^\n]{1,9}?)'"  # leaves Rust's lifetimes alone
_TRIPLE = r'"""(?:[^"\\]++|\\[\s\S]|"(?!""))*(?:"""|\Z)'
_TRIPLES = f"{_TRIPLE}|{_TRIPLE.replace(chr(34), chr(39))}"
_TEMPLATE = r"`(?:[^`\\]++|\\[\s\S])*(?:`|\Z)"
_RAW_RUST = r'\bb?r(?P<hashes>#*)"[\s\S]*?(?:"(?P=hashes)|\Z)'
_HASH = r"#[^\n]*"
_SLASHES = r"//[^\n]*"
_BLOCK = r"/\*[\s\S]*?(?:\*/|\Z)"
_DOCSTRING = rf"(?m:^)[ \t]*[rRuU]?(?:{_TRIPLES})"

_C_LIKE = (f"{_SLASHES}|{_BLOCK}", _PLAIN)
_WITH_TEMPLATES = (_C_LIKE[0], f"{_PLAIN}|{_TEMPLATE}")
_WITH_TRIPLES = (_C_LIKE[0], f"{_TRIPLE}|{_DOUBLE}|{_CHARACTER}")
_HASHED = (r"(?<![^\s;])#[^\n]*", _PLAIN)
_MARKUP = (r"<!--[\s\S]*?(?:-->|\Z)", r"(?!)")
_GRAMMARS = {
    "python": (f"{_HASH}|{_DOCSTRING}", f"{_TRIPLES}|{_PLAIN}"),
    "ruby": (rf"{_HASH}|(?m:^)=begin\b[\s\S]*?(?:\n=end\b|\Z)", _PLAIN),
    "php": (rf"#(?!\[)[^\n]*|{_C_LIKE[0]}", _PLAIN),
    "rust": (_C_LIKE[0], f"{_RAW_RUST}|{_DOUBLE}|{_CHARACTER}"),
    "go": (_C_LIKE[0], rf"{_PLAIN}|`[^`]*+(?:`|\Z)"),
    "c": _C_LIKE, "cpp": _C_LIKE, "csharp": _C_LIKE,
    "java": _WITH_TRIPLES, "kotlin": _WITH_TRIPLES, "swift": _WITH_TRIPLES, "scala": _WITH_TRIPLES,
    "javascript": _WITH_TEMPLATES, "typescript": _WITH_TEMPLATES,
    "css": (_BLOCK, _PLAIN),
    "sql": (rf"--[^\n]*|{_BLOCK}", _PLAIN),
    "lua": (r"--\[\[[\s\S]*?(?:\]\]|\Z)|--[^\n]*", _PLAIN),
    "shell": _HASHED, "perl": _HASHED, "r": _HASHED, "julia": _HASHED, "yaml": _HASHED, "toml": _HASHED,
    "ini": (r"(?m:^)[;#][^\n]*", _PLAIN),
    "html": _MARKUP, "xml": _MARKUP, "xslt": _MARKUP,
}  # fmt: skip


@cache
def _grammar(lang: str) -> re.Pattern[str] | None:
    if lang not in _GRAMMARS:
        return None
    comments, strings = _GRAMMARS[lang]
    return re.compile(rf"(?P<{COMMENT}>{comments})|(?P<{STRING}>{strings})|\\[\s\S]")


def pieces(text: str, lang: str) -> Iterator[tuple[str, str]]:
    """The text cut into (kind, piece), kind being code, comment (Python's docstrings too) or string; nothing is left out."""
    grammar = _grammar(lang)
    end = 0
    for match in grammar.finditer(text) if grammar else ():
        kind = match.lastgroup
        if kind is None:  # an escaped character
            continue
        if match.start() > end:
            yield CODE, text[end : match.start()]
        yield kind, match[0]
        end = match.end()
    if end < len(text):
        yield CODE, text[end:]


def statements(text: str, lang: str) -> str:
    """The text with its line breaks, without comments and without strings of several lines: where statements are looked for."""
    kept = []
    for kind, piece in pieces(text, lang):
        gone = kind == COMMENT or (kind == STRING and "\n" in piece)
        kept.append("\n" * piece.count("\n") or " " if gone else piece)
    return "".join(kept)
