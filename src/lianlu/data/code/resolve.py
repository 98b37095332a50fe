"""Which files of a repository an import means.

Each language has its own way: Python's source roots (folders without `__init__.py`), JavaScript's extensions, index files
and workspace packages, Java's packages as the ends of folders, Go's module name, include paths, Rust's module tree,
Ruby's `lib`, PHP's namespaces (PSR-4). What is not found in the repository belongs to somebody else and gives nothing.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from lianlu.data.code.imports import ALL, SIBLINGS, Import
from lianlu.data.code.tree import Tree, ancestors, folder_of, joined

_JS_ENDINGS = ("", ".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".json", ".vue")
_JS_SOURCE = re.compile(r"\.[mc]?jsx?$")
_RUST_ROOTS = ("lib.rs", "main.rs", "mod.rs")
_INCLUDE_ROOTS = {"", "include", "inc", "src", "source", "lib"}


@dataclass(frozen=True, slots=True)
class Hit:
    """A file that an import means; `names` are those sought in it (see `Import`).

    `if_used`: one of a folder of files, of which those count that define a name the importing file uses.
    """

    path: str
    names: tuple[tuple[str, str], ...] = ()
    if_used: bool = False


class Resolver:
    """Resolution in one repository; `texts` has every file by its path."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self.tree = Tree(texts)

    def hits(self, found: Import, path: str, lang: str) -> list[Hit]:
        """The files that an import in the file `path` means, each with the names sought there."""
        if found.target == SIBLINGS:
            ending = posixpath.splitext(path)[1]
            siblings = (other for other in self.tree.files_in[folder_of(path)] if other.endswith(ending))
            return [Hit(other, if_used=True) for other in siblings if other != path]
        ways: dict[str, Callable[[Import, str], list[Hit]]] = {
            "python": self._python, "javascript": self._javascript, "typescript": self._javascript, "java": self._java,
            "go": self._go, "c": self._c, "cpp": self._c, "rust": self._rust, "ruby": self._ruby, "php": self._php,
        }  # fmt: skip
        return ways[lang](found, path)

    def is_own(self, found: Import, lang: str) -> bool:
        """Whether the import must mean something in this repository, found or not."""
        return found.local or (lang == "python" and found.target.split(".")[0] in self._packages)

    @cached_property
    def _packages(self) -> set[str]:
        """Python's packages that lie in no other one."""
        inits = [folder_of(path) for path in self.tree.paths if path.endswith("/__init__.py")]
        return {posixpath.basename(folder) for folder in inits if f"{folder_of(folder)}/__init__.py".lstrip("/") not in self.tree}

    def _python(self, found: Import, path: str) -> list[Hit]:
        module = found.target.lstrip(".")
        dots = len(found.target) - len(module)
        parts = module.split(".") if module else []
        if dots:
            above = ancestors(folder_of(path))
            roots = iter(above[dots - 1 : dots])
        else:
            roots = self._python_roots(parts[0], path)
        for root in roots:
            if hits := self._python_in(root, parts, found):
                return hits
        return []

    def _python_roots(self, name: str, path: str) -> Iterator[str]:
        """Folders from which an absolute import may start: those above the file, then others that hold such a module."""
        own = ancestors(folder_of(path))
        above = [folder for folder in own if joined(folder, "__init__.py") not in self.tree]
        if name in sys.stdlib_module_names:
            yield from (folder for folder in above if folder == folder_of(path))
            return
        yield from above
        for suffix in (f"{name}/__init__.py", f"{name}.py"):
            for other in self.tree.ending(suffix, path):
                folder = other.removesuffix(suffix).rstrip("/")
                if joined(folder, "__init__.py") not in self.tree:
                    yield folder

    def _python_in(self, root: str, parts: list[str], found: Import) -> list[Hit]:
        base = joined(root, "/".join(parts))
        own = self._python_module(base)
        inside: dict[str, list[tuple[str, str]]] = {}
        for name, known_as in found.names:
            for target in self._python_module(joined(base, name)) if name != ALL else []:
                inside.setdefault(target, [])
                break
            else:
                for target in own:
                    inside.setdefault(target, []).append((name, known_as))
        return [Hit(target, tuple(names)) for target, names in inside.items()] if found.names else [Hit(it) for it in own]

    def _python_module(self, base: str) -> list[str]:
        return self.tree.first([f"{base}.py", joined(base, "__init__.py"), f"{base}.pyi", joined(base, "__init__.pyi")])

    def _javascript(self, found: Import, path: str) -> list[Hit]:
        target = found.target.split("?")[0]
        if target.startswith("."):
            bases = [joined(folder_of(path), target)]
        elif target.startswith(("@/", "~/")):
            bases = [joined(folder, part + target[2:]) for folder in ancestors(folder_of(path)) for part in ("src/", "")]
        else:
            bases = list(self._workspace(target))
        for base in bases:
            plain = _JS_SOURCE.sub("", base)
            names = [base + ending for ending in _JS_ENDINGS] + [plain + ending for ending in _JS_ENDINGS if plain != base]
            index = [joined(base, f"index{ending}") for ending in _JS_ENDINGS[1:]]
            if hits := self.tree.first(names + index):
                return [Hit(hits[0], found.names)]
        return []

    def _workspace(self, target: str) -> Iterator[str]:
        """Places of a package that this repository itself holds."""
        for name, folder in self._workspaces.items():
            if target == name or target.startswith(name + "/"):
                rest = target[len(name) :].lstrip("/")
                yield from (joined(folder, posixpath.join(part, rest)) for part in ("src", "lib", ""))

    @cached_property
    def _workspaces(self) -> dict[str, str]:
        return self._declared("package.json", r'^\s*"name"\s*:\s*"([^"]+)"')

    def _declared(self, file: str, pattern: str) -> dict[str, str]:
        """The name in each file of this name, with its folder; the longest names first."""
        found = {}
        for path in self.tree.ending(file, ""):
            if match := re.search(pattern, self._texts[path], re.MULTILINE):
                found[match[1]] = folder_of(path)
        return dict(sorted(found.items(), key=lambda pair: (-len(pair[0]), pair[0])))

    def _java(self, found: Import, path: str) -> list[Hit]:
        parts = found.target.split(".")
        if found.names:
            for folder in self.tree.folders_ending("/".join(parts), path):
                if files := [other for other in self.tree.files_in[folder] if other.endswith(".java")]:
                    return [Hit(other, if_used=True) for other in files]
        for count in range(len(parts), max(len(parts) - 3, 1), -1):  # what is left out is a member or an inner class
            if files := self.tree.ending("/".join(parts[:count]) + ".java", path):
                return [Hit(files[0])]
        return []

    def _go(self, found: Import, path: str) -> list[Hit]:
        for name, folder in self._go_modules.items():
            if found.target == name or found.target.startswith(name + "/"):
                return self._go_package(joined(folder, found.target[len(name) :].lstrip("/")))
        parts = found.target.split("/")
        if self._go_modules or "." not in parts[0]:
            return []
        folders = (folder for start in range(1, len(parts)) for folder in self.tree.folders_ending("/".join(parts[start:]), path))
        return next((hits for folder in folders if (hits := self._go_package(folder))), [])

    def _go_package(self, folder: str) -> list[Hit]:
        files = self.tree.files_in.get(folder, ())
        return [Hit(path, if_used=True) for path in files if path.endswith(".go") and not path.endswith("_test.go")]

    @cached_property
    def _go_modules(self) -> dict[str, str]:
        return self._declared("go.mod", r"^module\s+\"?([^\s\"]+)")

    def _c(self, found: Import, path: str) -> list[Hit]:
        own = self.tree.first([joined(folder_of(path), found.target)]) if found.local else []
        if own or ".." in found.target:
            return [Hit(other) for other in own]
        for other in self.tree.ending(found.target, path):
            root = posixpath.basename(other.removesuffix(found.target).rstrip("/"))
            if found.local or "/" in found.target or root in _INCLUDE_ROOTS:
                return [Hit(other)]
        return []

    def _rust(self, found: Import, path: str) -> list[Hit]:
        first, *rest = found.target.split("::") if found.target else [found.names[0][0]]
        own = folder_of(path) if posixpath.basename(path) in _RUST_ROOTS else path.removesuffix(".rs")
        if first == "crate":
            return self._rust_at(self._crate(path), rest, found)
        if first in ("self", "super"):
            while first in ("self", "super"):
                own = folder_of(own) if first == "super" else own
                first, *rest = rest or [""]
            return self._rust_at(own, [first, *rest] if first else [], found)
        if roots := self.tree.ending(f"{first}/src/lib.rs", path) or self.tree.ending(
            f"{first.replace('_', '-')}/src/lib.rs", path
        ):
            return self._rust_at(folder_of(roots[0]), rest, found)
        return self._rust_at(own, [first, *rest], found) if self._rust_module(joined(own, first)) else []

    def _crate(self, path: str) -> str:
        for folder in ancestors(folder_of(path)):
            if self.tree.first([joined(folder, "lib.rs"), joined(folder, "main.rs")]):
                return folder
        return folder_of(path)

    def _rust_at(self, base: str, parts: list[str], found: Import) -> list[Hit]:
        """The deepest module file on a path of modules; what is left of the path are names inside it."""
        whole = [*parts, *(name for name, _ in found.names if name != ALL)]
        for count in range(len(whole), -1, -1):
            if hits := self._rust_module(joined(base, "/".join(whole[:count]))):
                left = whole[count : count + 1]
                return [Hit(hits[0], ((left[0], left[0]),) if left else found.names if found.names[0][0] == ALL else ())]
        return []

    def _rust_module(self, base: str) -> list[str]:
        names = [joined(base, name) for name in ("mod.rs", "lib.rs", "main.rs")]
        return self.tree.first([f"{base}.rs", *names] if base else names)

    def _ruby(self, found: Import, path: str) -> list[Hit]:
        name = found.target.removesuffix(".rb") + ".rb"
        if found.local:
            return [Hit(other) for other in self.tree.first([joined(folder_of(path), name)])]
        for other in self.tree.ending(name, path):
            if posixpath.basename(other.removesuffix(name).rstrip("/")) in ("", "lib", "app", "src", "test", "spec"):
                return [Hit(other)]
        return []

    def _php(self, found: Import, path: str) -> list[Hit]:
        if found.local:
            name = found.target.removeprefix("./")
            return [Hit(it) for it in self.tree.first(joined(folder, name) for folder in ancestors(folder_of(path)))]
        parts = found.target.split("\\")
        for start in range(max(len(parts) - 1, 1)):
            if files := self.tree.ending("/".join(parts[start:]) + ".php", path):
                return [Hit(files[0])]
        return []
