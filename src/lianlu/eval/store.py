"""The item store: what a killed evaluation has already done.

Items are worked on in groups of a fixed size and in a fixed order. A group is written when it is complete, as one line;
a group that was not is done again from its start. So a continued run asks the model the same batches as a run in one go,
and ends in the same bits. The file lies in the hidden `.resume` folder of a run, one a task, and is bound to what
was asked by a key: with another key it is begun anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lianlu.core.files import disk_errors, write_text
from lianlu.formats.eval_log import Sample


class ItemStore:
    """Complete groups of samples by number, in memory and on disk."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.groups: dict[int, list[Sample]] = {}
        whole = self._read(key)
        if whole is None:
            write_text(path, json.dumps({"key": key}) + "\n")
        elif whole < path.stat().st_size:
            with disk_errors(path):
                os.truncate(path, whole)

    def add(self, number: int, samples: Sequence[Sample]) -> None:
        """Keep a complete group; on disk when this returns."""
        line = json.dumps({"group": number, "samples": [s.model_dump(exclude_defaults=True) for s in samples]})
        with disk_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.groups[number] = list(samples)

    def samples(self) -> list[Sample]:
        """All samples in order of their groups."""
        return [sample for number in sorted(self.groups) for sample in self.groups[number]]

    def _read(self, key: str) -> int | None:
        """Load complete groups; returns the bytes that are whole, or None if the file belongs to something else."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return None
        if not lines or _load(lines[0]).get("key") != key:
            return None
        whole = len(lines[0])
        for line in lines[1:]:
            if not self._take(line):
                break
            whole += len(line)
        return whole

    def _take(self, line: bytes) -> bool:
        raw = _load(line)
        try:
            self.groups[int(raw["group"])] = [Sample.model_validate(sample) for sample in raw["samples"]]
        except (KeyError, TypeError, ValueError, ValidationError):
            return False
        return True


def _load(line: bytes) -> dict[str, Any]:
    """A whole line as an object; anything else is empty."""
    if not line.endswith(b"\n"):
        return {}
    try:
        raw = json.loads(line)
    except ValueError:
        return {}
    return raw if isinstance(raw, dict) else {}
