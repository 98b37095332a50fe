"""rejected.jsonl: the records of training data that give no example, one a line, so that people can mend them.

    {"file": "a.jsonl", "line": 17, "reason": "an empty answer", "detail": "turn 2", "record": {...}}

`index`, from 0, stands in place of `line` in files that are not lines; `record` is its beginning as text where it is long.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lianlu.core.files import disk_errors
from lianlu.formats.examples.files import is_text
from lianlu.formats.examples.sources import Source
from lianlu.train.conversations import Outcome
from lianlu.train.example_file import growing


class RejectedFile:
    """The file in the making, cut back to `size`; use it in a `with` block. Without rejected records there is no file."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        with disk_errors(path):
            self._file = self._stack.enter_context(growing(path, size))

    def add(self, source: Source, outcome: Outcome) -> None:
        """Note a record that gives no example."""
        assert outcome.rejection is not None
        rejection = outcome.rejection
        place = {} if is_text(source.path) else {"line" if source.by_line else "index": outcome.place}
        why = {"reason": rejection.reason, **({"detail": rejection.detail} if rejection.detail else {})}
        self._write({"file": source.name, **place, **why, "record": rejection.record})

    def add_files(self, left_out: Mapping[str, str]) -> None:
        """Note whole files."""
        for name, why in left_out.items():
            self._write({"file": name, "reason": f"left out: {why}"})

    def commit(self) -> int:
        """Put it on the disk; returns its size."""
        with disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def _write(self, value: dict[str, Any]) -> None:
        with disk_errors(self._path):
            self._file.write(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")

    def __enter__(self) -> RejectedFile:
        return self

    def __exit__(self, *_: object) -> None:
        with disk_errors(self._path):
            is_empty = self._file.tell() == 0
            self._stack.close()
            if is_empty:
                self._path.unlink(missing_ok=True)
