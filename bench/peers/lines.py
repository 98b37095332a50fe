"""How a tool is asked: lines of JSON, `{"do": NAME, ...}`, each answered by one line; imports nothing of any tool.

Seconds are of processor time, so that a busy machine does not count; each tool works in one process on one thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Spent = Counter[str]


def rows(path: str) -> list[dict[str, Any]]:
    """The documents of a JSONL file."""
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@contextlib.contextmanager
def counted(spent: Spent, name: str) -> Iterator[None]:
    """Add the processor time of the block, and of processes that ended in it, to `name`."""
    began = _cpu()
    yield
    spent[name] += _cpu() - began


def _cpu() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def serve(answers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer until the input ends; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(answers[asked.pop("do")](**asked)), file=out, flush=True)
