"""What a Python module says about itself: its public functions, classes and methods with signature and docstring.

Read from the syntax tree; nothing is imported or run. Used for documents (`python_source`) and for questions (`chat_data`).
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Symbol:
    """A public name: `name` is qualified inside the module (`JSONDecoder.decode`), `parameters` are without self and cls."""

    module: str
    name: str
    kind: Literal["module", "function", "class", "method"]
    signature: str
    parameters: tuple[str, ...]
    doc: str

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


def parse(source: str) -> ast.Module | None:
    """The syntax tree, or None for a source this Python cannot read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def symbols(source: str, module: str) -> list[Symbol]:
    """The module itself and its public names that have a docstring, in order of the source."""
    tree = parse(source)
    if tree is None:
        return []
    doc = ast.get_docstring(tree)
    found = [Symbol(module, "", "module", "", (), doc)] if doc else []
    return found + list(_public(tree.body, module, ""))


def _public(body: list[ast.stmt], module: str, owner: str) -> Iterator[Symbol]:
    for node in body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        name = f"{owner}.{node.name}" if owner else node.name
        if doc := ast.get_docstring(node):
            yield _symbol(node, module, name, doc)
        if isinstance(node, ast.ClassDef) and not owner:
            yield from _public(node.body, module, name)


def _symbol(node: Definition, module: str, name: str, doc: str) -> Symbol:
    arguments = _initialiser(node).args if isinstance(node, ast.ClassDef) else node.args
    bound = isinstance(node, ast.ClassDef) or ("." in name and not _is_static(node))
    kind: Literal["function", "class", "method"]
    kind = "class" if isinstance(node, ast.ClassDef) else "method" if "." in name else "function"
    signature, parameters = _describe(arguments, bound)
    return Symbol(module, name, kind, f"{name}({signature})", parameters, inspect.cleandoc(doc))


def _initialiser(node: ast.ClassDef) -> ast.FunctionDef:
    """`__init__` of a class, or an empty one."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    empty = ast.parse("def __init__(self): pass").body[0]
    assert isinstance(empty, ast.FunctionDef)
    return empty


def _is_static(node: ast.stmt) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in decorators)


def _describe(arguments: ast.arguments, bound: bool) -> tuple[str, tuple[str, ...]]:
    """The text of a parameter list and the names in it, without the first one of a bound method."""
    positional = arguments.posonlyargs + arguments.args
    if bound and positional:
        kept = arguments.posonlyargs[1:], arguments.args if arguments.posonlyargs else arguments.args[1:]
        defaults = arguments.defaults[-(len(positional) - 1) :] if len(positional) > 1 else []
        arguments = ast.arguments(
            kept[0], kept[1], arguments.vararg, arguments.kwonlyargs, arguments.kw_defaults, arguments.kwarg, defaults
        )
    names = [item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    stars = [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    stars += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return ast.unparse(arguments), tuple(names + stars)
