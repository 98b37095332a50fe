"""What a source file imports and defines, by regular expressions (as InternLM2 does, arXiv 2403.17297, section 3.1.2).

Python, JavaScript and TypeScript, Java, Go, C and C++, Rust, Ruby, PHP. Comments and strings of several lines are not looked
into. An import is kept in the notation of its language; which files it means is for `resolve` to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ALL = "*"
SIBLINGS = "./"
"""Target of the imports that nobody writes: files of one folder see each other in Java, Go and PHP."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import.

    `names`: what is taken from the target, each with the name it gets here; `*` is everything, none means that it is not
    said. `alias`: the name by which the target itself is used. `local`: the notation alone says that the target is in this
    repository. `late`: not needed to load the file (inside a function, for types, a list of submodules).
    """

    target: str
    names: tuple[tuple[str, str], ...] = ()
    alias: str = ""
    local: bool = False
    late: bool = False


_RENAMED = re.compile(r"(?:type\s+)?([\w$]+|\*)(?:\s+as\s+([\w$]+)|\s*:\s*([\w$]+))?")
_PY_FROM = re.compile(r"^([ \t]*)from[ \t]*(\.*)[ \t]*([\w.]*)[ \t]+import[ \t]*(\([^()]*\)|[^\n;()]+)", re.M)
_PY_IMPORT = re.compile(r"^([ \t]*)import[ \t]+([\w.]++[^\n;]*)", re.M)
_PY_ITEM = re.compile(r"([\w.]+)(?:\s+as\s+(\w+))?")
_JS_FROM = re.compile(r"\bfrom\s*[\"']([^\"'\n]+)[\"']")
_JS_KEYWORD = re.compile(r"\b(?:import|export)\b")
_JS_CLAUSE = re.compile(r"(\s+type\b)?([\w$*\s{},]*)")
_JS_BARE = re.compile(r"\bimport\s*(\()?\s*[\"']([^\"'\n]+)[\"']")
_JS_REQUIRE = re.compile(r"(?:(\{[^{}]*\}|(?<![\w$])[\w$]++)\s*+=\s*+)?\brequire\s*\(\s*[\"']([^\"'\n]+)[\"']\s*\)")
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+?)(\.\*)?[ \t]*;", re.M)
_GO_BLOCK = re.compile(r"^import\s*(?:\(([^)]{0,20000})\)|([^\n(]+))", re.M)
_GO_ITEM = re.compile(r"(?:([\w.]+)[ \t]+)?\"([^\"\n]+)\"")
_C = re.compile(r"^[ \t]*#[ \t]*(?:include|import)(?:_next)?[ \t]*([<\"])([^>\"\n]+)[>\"]", re.M)
_RUST_MOD = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.M)
_RUST_USE = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?use[ \t]+([^;]{1,4000});", re.M)
_RUST_PATH = re.compile(r"\b((?:crate|super)(?:::\w++)+)(?!::)")
_RUBY = re.compile(r"^[ \t]*(require_relative|require|load|autoload)\b[ \t(]*(?::\w+[ \t]*,[ \t]*)?[\"']([^\"'\n]+)[\"']", re.M)
_PHP_FILE = re.compile(
    r"\b(?:require|include)(?:_once)?\b[\s(]*(?:__DIR__\s*\.\s*|dirname\(__FILE__\)\s*\.\s*)?[\"']([^\"'\n]+)[\"']"
)
_PHP_USE = re.compile(r"^[ \t]*use[ \t]+(?:function[ \t]+|const[ \t]+)?([\w\\][^;()=$]{0,4000});", re.M)


def imports(code: str, lang: str) -> list[Import]:
    """The imports of a file in order, each once; `code` is what `lexer.statements` leaves of it."""
    reader = _READERS.get(lang)
    return list(dict.fromkeys(reader(code))) if reader else []


def _named(clause: str) -> tuple[tuple[str, str], ...]:
    """`a, b as c` (or `b: c`) as pairs."""
    found = (_RENAMED.match(item.strip()) for item in clause.strip("(){} \n\t").split(","))
    return tuple((match[1], match[2] or match[3] or match[1]) for match in found if match)


def _python(code: str) -> Iterator[Import]:
    code = code.replace("\\\n", " ")
    for match in _PY_FROM.finditer(code):
        yield Import(match[2] + match[3], _named(match[4]), local=bool(match[2]), late=bool(match[1]))
    for match in _PY_IMPORT.finditer(code):
        for item in _PY_ITEM.finditer(match[2]):
            yield Import(item[1], alias=item[2] or item[1], late=bool(match[1]))


def _javascript(code: str) -> Iterator[Import]:
    def made(target: str, clause: str, late: bool) -> Import:
        default, _, rest = clause.partition("{")
        names = _named(rest.partition("}")[0]) if rest else ()
        whole = re.search(r"\*(?:\s*as\s+([\w$]+))?", default)
        if whole and not whole[1]:
            names += ((ALL, ALL),)
        elif plain := re.match(r"\s*([\w$]+)", default):
            names += (("default", plain[1]),)
        alias = whole[1] if whole and whole[1] else ""
        return Import(target, names, alias, target.startswith("."), late)

    end = 0
    for match in _JS_FROM.finditer(code):  # backwards to its keyword, since forwards each keyword would be tried to the end
        begin = max((word.end() for word in _JS_KEYWORD.finditer(code, end, match.start())), default=match.start())
        between = _JS_CLAUSE.fullmatch(code, begin, match.start())
        if between and begin < match.start():
            yield made(match[1], between[2], bool(between[1]))
        end = match.end()
    for match in _JS_REQUIRE.finditer(code):
        clause = match[1] or ""
        alias = "" if clause.startswith("{") else clause
        names = _named(clause) if clause.startswith("{") else ()
        yield Import(match[2], names, alias, match[2].startswith("."))
    for match in _JS_BARE.finditer(code):
        yield Import(match[2], local=match[2].startswith("."), late=bool(match[1]))


def _java(code: str) -> Iterator[Import]:
    for match in _JAVA.finditer(code):
        yield Import(match[1], ((ALL, ALL),) if match[2] else ())
    yield Import(SIBLINGS, late=True)


def _go(code: str) -> Iterator[Import]:
    for block in _GO_BLOCK.finditer(code):
        for item in _GO_ITEM.finditer(block[1] or block[2]):
            last = re.sub(r"/v\d+$|\.v\d+$", "", item[2]).rpartition("/")[2]
            yield Import(item[2], alias=item[1] or last.removeprefix("go-"))
    yield Import(SIBLINGS, late=True)


def _c(code: str) -> Iterator[Import]:
    for match in _C.finditer(code):
        yield Import(match[2].strip(), local=match[1] == '"')


def _rust(code: str) -> Iterator[Import]:
    for match in _RUST_USE.finditer(code):
        for path, name in _branches(match[1]):
            yield Import(path, ((name, name),), local=path.startswith(("crate", "self", "super")))
    for match in _RUST_PATH.finditer(code):
        path, _, name = match[1].rpartition("::")
        yield Import(path, ((name, name),), local=True)
    for match in _RUST_MOD.finditer(code):
        yield Import(f"self::{match[1]}", ((ALL, ALL),), local=True, late=True)


def _branches(tree: str) -> Iterator[tuple[str, str]]:
    """`a::{b, c::{d as e, self}}` as (path, name): (a, b), (a::c, d), (a, c). Braces that do not match end the list."""
    stack, prefix = [""], ""
    for token in re.findall(r"[\w:*]+(?:\s+as\s+\w+)?|[{},]", tree):
        if token == "{":
            stack.append(prefix)
        elif token == "}":
            if len(stack) == 1:
                return
            stack.pop()
            prefix = ""
        elif token == ",":
            prefix = ""
        else:
            prefix = stack[-1] + token.split()[0]
            if not prefix.endswith("::"):
                path, _, name = prefix.removesuffix("::self").rpartition("::")
                yield path, name


def _ruby(code: str) -> Iterator[Import]:
    for match in _RUBY.finditer(code):
        relative = match[1] == "require_relative"
        yield Import(f"./{match[2]}" if relative else match[2], local=relative, late=match[1] == "autoload")


def _php(code: str) -> Iterator[Import]:
    for match in _PHP_FILE.finditer(code):
        yield Import(f"./{match[1].lstrip('/')}", local=True)
    for match in _PHP_USE.finditer(code):
        prefix, _, group = match[1].partition("{")
        for item in (group or prefix).rstrip("} \n").split(","):
            name = (prefix.strip() if group else "") + item.split(" as ")[0].strip()
            if name:
                yield Import(name.strip("\\"))
    yield Import(SIBLINGS, late=True)


_READERS: dict[str, Callable[[str], Iterator[Import]]] = {
    "python": _python, "javascript": _javascript, "typescript": _javascript, "java": _java, "go": _go,
    "c": _c, "cpp": _c, "rust": _rust, "ruby": _ruby, "php": _php,
}  # fmt: skip
LANGUAGES = frozenset(_READERS)
"""Languages whose imports and definitions are understood."""
_C_DEFINED = re.compile(
    r"#[ \t]*define[ \t]+(\w+)|\b(?:struct|class|enum|union|namespace|using)\s+(\w+)|\}\s*(\w+)\s*;|\b(\w++)\s*+\(|\b(\w++)\s*+;"
)
_JS_DEFINED = re.compile(
    r"^[ \t]*(?:export[ \t]+)?(?:default[ \t]+)?(?:declare[ \t]+)?(?:abstract[ \t]+)?(?:async[ \t]+)?"
    r"(?:function\*?|class|const|let|var|interface|type|enum|namespace)[ \t]+([\w$]+)|^[ \t]*(?:module\.)?exports\.([\w$]+)"
    r"|^[ \t]*export[ \t]+(default)\b", re.M,
)  # fmt: skip
_DEFINED = {
    "python": re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]+)?=", re.M),
    "javascript": _JS_DEFINED, "typescript": _JS_DEFINED,
    "java": re.compile(r"\b(?:class|interface|enum|record)\s+(\w+)"),
    "go": re.compile(r"^(?:func|type|var|const)[ \t]+(?!main\b|init\b)(\w+)|^\t(\w+)\b[^\n(:]*$|^\t(\w+)\b[^\n(:]*=", re.M),
    "c": _C_DEFINED, "cpp": _C_DEFINED,
    "rust": re.compile(
        r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?(?:(?:async|unsafe|const|default)[ \t]+)*"
        r"(?:fn|struct|enum|trait|type|const|static|union)[ \t]+(\w+)|\bmacro_rules!\s*(\w+)", re.M,
    ),
    "ruby": re.compile(r"^[ \t]*(?:class|module|def)[ \t]+(?:self\.)?(\w+)", re.M),
    "php": re.compile(r"\b(?:class|interface|trait|enum|function|const)\s+(\w+)"),
}  # fmt: skip


def definitions(code: str, lang: str) -> frozenset[str]:
    """Names that a file defines for others, more rather than fewer (for C also those it only mentions)."""
    pattern = _DEFINED.get(lang)
    return frozenset(name for match in pattern.finditer(code) for name in match.groups() if name) if pattern else frozenset()
