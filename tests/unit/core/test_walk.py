"""Folders are walked without a call for each level."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from lianlu.core.files import files_below


def test_folders_are_walked_however_deep(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*"d" * 150)
    deepest.mkdir(parents=True)
    (deepest / "deep.txt").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a").write_text("x")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        found = files_below(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert found == [deepest / "deep.txt"]
