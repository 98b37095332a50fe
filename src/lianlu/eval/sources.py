"""Where tasks find their rows: held-out conversations of a recipe, and a folder of public benchmarks used in place.

A folder of benchmarks has one folder a set (`gsm8k/test.jsonl.gz`, `mmlu/mmlu.zip`, ...); nothing is copied or unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lianlu.core.errors import ConfigError, DataError
from lianlu.formats.jsonl import read_values

T = TypeVar("T")
HELD_OUT = "held_out.jsonl"


@dataclass(frozen=True)
class Sources:
    """What an evaluation may read, and the seed of what it generates."""

    conversations: Path | None = None
    benchmarks: Path | None = None
    seed: int = 0

    def held_out(self) -> Path:
        """The file of held-out conversations. Raises: ConfigError, DataError."""
        if self.conversations is None:
            raise ConfigError("the task docstrings needs held-out conversations", hint='set data = "@chat-data"')
        path = self.conversations / HELD_OUT if self.conversations.is_dir() else self.conversations
        if not path.is_file():
            raise DataError(f"there is no file {path}", hint="`data` is the output of chat-data, or one JSONL file")
        return path

    def benchmark(self, name: str, *files: str) -> Path:
        """The first of `files` in the folder of the benchmark `name`. Raises: ConfigError, DataError."""
        if self.benchmarks is None:
            raise ConfigError(
                f"the task {name} needs a folder of benchmarks", hint='set benchmarks = "DIR" (it holds gsm8k/, mmlu/, ...)'
            )
        for folder in (self.benchmarks / name, self.benchmarks):
            for file in files:
                if (folder / file).is_file():
                    return folder / file
        wanted = " or ".join(files)
        raise DataError(f"there is no {wanted} in {self.benchmarks / name}", hint=f"put the data of {name} there")


def rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of a JSONL file that have to have `fields` as text. Raises: DataError that names file and line."""
    found = []
    for number, row in read_values(path):
        if missing := [name for name in fields if not isinstance(row.get(name), str)]:
            raise DataError(f"{path}, line {number}: no text in {', '.join(missing)}", hint="is it the right file?")
        found.append(row)
    if not found:
        raise DataError(f"{path} holds no rows", hint="the file is empty: fetch it again")
    return found


def first(items: Sequence[T], limit: int) -> list[T]:
    """The first `limit` items; 0 means all."""
    return list(items[:limit] if limit else items)


def spread(items: Sequence[T], limit: int) -> list[T]:
    """`limit` items at even distances, in order; 0 means all."""
    if not limit or limit >= len(items):
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]
