"""Which file of a repository needs which: imports found, resolved, and batched imports seen through.

A file such as `__init__.py`, `index.js`, `lib.rs` or an umbrella header imports a lot on behalf of others. Who imports it
needs only some of that: names are followed through it to the files that define them (InternLM2 report, section 3.1.2), and
the file itself counts only where a name stops there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cache

from lianlu.data.code.imports import ALL, LANGUAGES, SIBLINGS, Import, definitions, imports
from lianlu.data.code.lexer import statements
from lianlu.data.code.resolve import Hit, Resolver

_BATCH_NAMES = re.compile(r"__init__\.pyi?|index\.(?:d\.ts|[cm]?[jt]sx?)|(?:mod|lib)\.rs")
_DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*(?:include|import|ifn?def|if|elif|else|endif|define|undef|pragma)\b[^\n]*", re.M)
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass
class Graph:
    """The files each file needs: before it can be loaded (`needs`), and at all (`late`, without the former).

    `num_imports` were found, `num_resolved` mean a file of the repository, `missing` (path, target) should but do not.
    """

    needs: dict[str, set[str]] = field(default_factory=dict)
    late: dict[str, set[str]] = field(default_factory=dict)
    num_imports: int = 0
    num_resolved: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)


def import_graph(texts: Mapping[str, str], langs: Mapping[str, str]) -> Graph:
    """The graph of a repository from texts and languages of its files by path; other languages need nothing."""
    files = _Files(texts, langs)
    graph = Graph()
    for path in sorted(texts):
        early: set[str] = set()
        late: set[str] = set()
        for found, hits in files.imports(path):
            if found.target != SIBLINGS:
                graph.num_imports += 1
                graph.num_resolved += bool(hits)
                if not hits and files.resolver.is_own(found, langs[path]):
                    graph.missing.append((path, found.target))
            (late if found.late else early).update(target for hit in hits for target in files.meant(hit, found, path))
        graph.needs[path] = early - {path}
        graph.late[path] = late - early - {path}
    return graph


class _Files:
    """What is known of each file, found out once."""

    def __init__(self, texts: Mapping[str, str], langs: Mapping[str, str]) -> None:
        self.resolver = Resolver(texts)
        self._texts, self._langs = texts, langs
        self.code = cache(self._code)
        self.words = cache(self._words)
        self.defined = cache(self._defined)
        self.imports = cache(self._imports)
        self.is_batch = cache(self._is_batch)
        self._exports: dict[str, dict[str, str]] = {}

    def _code(self, path: str) -> str:
        return statements(self._texts[path], self._langs[path])

    def _words(self, path: str) -> frozenset[str]:
        return frozenset(_WORD.findall(self.code(path)))

    def _defined(self, path: str) -> frozenset[str]:
        return definitions(self.code(path), self._langs[path])

    def _imports(self, path: str) -> list[tuple[Import, list[Hit]]]:
        lang = self._langs[path]
        found = imports(self.code(path), lang) if lang in LANGUAGES else []
        return [(one, [hit for hit in self.resolver.hits(one, path, lang) if self._langs[hit.path]]) for one in found]

    def _is_batch(self, path: str) -> bool:
        if self._langs[path] in ("c", "cpp"):
            return "#include" in self.code(path) and not _DIRECTIVE.sub("", self.code(path)).strip()
        return bool(_BATCH_NAMES.fullmatch(posixpath.basename(path)))

    def meant(self, hit: Hit, found: Import, path: str) -> set[str]:
        """The files that `path` needs because of this hit of one of its imports."""
        if hit.if_used:
            return {hit.path} if self._used(found, path) & self.defined(hit.path) else set()
        if not self.is_batch(hit.path):
            return {hit.path}
        sought = {name for name, _ in hit.names}
        said = bool(sought) and ALL not in sought
        wanted: Set[str] = sought if said else self._used(found, path)
        exports = self.exports(hit.path)
        targets = {exports[name] for name in wanted if name in exports}
        return targets | {hit.path} if not targets or (said and not sought <= exports.keys()) else targets

    def _used(self, found: Import, path: str) -> Set[str]:
        """Names that a file may want of a target that it imports as a whole: `alias.name`, or any word of it."""
        if not found.alias:
            return self.words(path)
        return frozenset(re.findall(rf"\b{re.escape(found.alias)}\s*\.\s*(\w+)", self.code(path)))

    def exports(self, batch: str) -> dict[str, str]:
        """The file behind each name that a batch file hands on; of several the first that it imports."""
        if batch not in self._exports:
            self._exports[batch] = {}  # what a batch file that imports this one in turn sees
            exports: dict[str, str] = {}
            for found, hits in self.imports(batch):
                for hit in hits if found.target != SIBLINGS else ():
                    for name, target in self._handed_on(hit, found).items():
                        exports.setdefault(name, target)
            self._exports[batch] = exports
        return self._exports[batch]

    def _handed_on(self, hit: Hit, found: Import) -> dict[str, str]:
        inner = self.exports(hit.path) if self.is_batch(hit.path) else {}
        names = dict(hit.names)
        if names and ALL not in names:
            return {public: inner.get(name, hit.path) for name, public in names.items()}
        submodules = {public for name, public in found.names if name != ALL} or {posixpath.basename(hit.path).split(".")[0]}
        everything = {**dict.fromkeys(self.defined(hit.path), hit.path), **inner} if ALL in names or not found.names else {}
        return {**everything, **dict.fromkeys(submodules, hit.path)}
