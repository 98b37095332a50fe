"""Print the size of every package and fail where a file or a function is over the wall. There is no list of exceptions."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def functions(tree: ast.AST) -> list[tuple[str, int]]:
    """(name, lines) of every function in a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(n.name, (n.end_lineno or n.lineno) - n.lineno + 1) for n in ast.walk(tree) if isinstance(n, kinds)]


def main() -> int:
    """Print the table; the exit code is 1 if a limit is broken."""
    broken = []
    packages: dict[str, tuple[list[int], list[int]]] = {}
    for path in sorted((ROOT / "src" / "lianlu").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines, found = source.count("\n"), functions(ast.parse(source))
        name = path.relative_to(ROOT / "src" / "lianlu").parts[0]
        files, sizes = packages.setdefault(name, ([], []))
        if lines:
            files.append(lines)
        sizes.extend(size for _, size in found)
        if lines > MAX_FILE_LINES:
            broken.append(f"{path.relative_to(ROOT)}: {lines} lines (at most {MAX_FILE_LINES})")
        broken += [
            f"{path.relative_to(ROOT)}: {function} has {size} lines (at most {MAX_FUNCTION_LINES})"
            for function, size in found
            if size > MAX_FUNCTION_LINES
        ]
    print(f"{'package':<16}{'files':>6}{'lines':>8}{'longest':>9}{'median function':>17}{'longest':>9}")
    for name, (files, sizes) in packages.items():
        longest, middle = max(files, default=0), statistics.median(sizes) if sizes else 0
        print(f"{name:<16}{len(files):>6}{sum(files):>8}{longest:>9}{middle:>17.0f}{max(sizes, default=0):>9}")
    print(f"{'all':<16}{sum(len(f) for f, _ in packages.values()):>6}{sum(sum(f) for f, _ in packages.values()):>8}")
    print("\n".join(broken))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
