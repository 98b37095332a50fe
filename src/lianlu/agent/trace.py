"""Runs on disk: JSONL, one line for the file, then for each run its beginning, its steps and its end.

    {"lianlu": "trace", "format": 1}
    {"run": 0, "kind": "begin", "model": "...", "tools": [...]}
    {"run": 0, "kind": "given", "messages": [...]}
    {"run": 0, "kind": "turn", "message": {...}, "finish_reason": "tool_calls", "completion_tokens": 21, "seconds": 0.8}
    {"run": 0, "kind": "called", "call": {...}, "message": {...}}
    {"run": 0, "kind": "end", "stop_reason": "answer"}

Without times equal runs give equal bytes. Fields with their default value are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from lianlu.agent.steps import Run, Step
from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write

FORMAT = 1
_STEP: TypeAdapter[Step] = TypeAdapter(Step)


def write_trace(path: Path, runs: Iterable[Run], times: bool = True) -> int:
    """Write runs to `path`, without the seconds of each step if `times` is False; returns how many runs."""
    count = 0
    with atomic_write(path, "w") as file:
        file.write(json.dumps({"lianlu": "trace", "format": FORMAT}) + "\n")
        for count, run in enumerate(runs, 1):
            for line in _lines(run, times):
                file.write(json.dumps({"run": count - 1, **line}, ensure_ascii=False) + "\n")
    return count


def read_trace(path: Path) -> list[Run]:
    """Read the runs of a trace. Raises: DataError that names file and line, also for a trace that was cut off."""
    runs: list[Run] = []
    begun: dict[str, Any] | None = None
    try:
        with open(path, encoding="utf-8") as file:
            _check_header(path, file.readline())
            for number, line in enumerate(file, 2):
                begun = _read_line(path, number, line, runs, begun)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", hint="is it a trace?") from error
    if begun is not None:
        raise DataError(f"{path} ends in the middle of run {len(runs)}", hint="it was cut off; make it anew")
    return runs


def _lines(run: Run, times: bool) -> Iterator[dict[str, Any]]:
    yield {"kind": "begin", "model": run.model, "tools": [_plain(tool) for tool in run.tools]}
    for step in run.steps:
        yield {"kind": step.kind, **_plain(step, exclude=set() if times else {"seconds"})}
    yield {"kind": "end", "stop_reason": run.stop_reason} | ({"error": run.error} if run.error else {})


def _plain(model: BaseModel, exclude: set[str] | None = None) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_defaults=True, exclude=exclude)


def _check_header(path: Path, line: str) -> None:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("lianlu") != "trace":
        raise DataError(f"{path} is not a trace", hint="point to a file that an agent's run has written")
    if not isinstance(header.get("format"), int) or header["format"] > FORMAT:
        raise DataError(f"{path} has format {header.get('format')}, this lianlu reads up to {FORMAT}", hint="upgrade lianlu")


def _read_line(path: Path, number: int, line: str, runs: list[Run], begun: dict[str, Any] | None) -> dict[str, Any] | None:
    """Take one line into the run that has begun; an `end` moves that run to `runs`."""
    try:
        raw = json.loads(line)
        kind, index = raw.get("kind"), raw.pop("run")
        if index != len(runs) or (kind == "begin") != (begun is None):
            raise ValueError(f"a line of kind {kind} of run {index} is out of place")
        if begun is None:
            return {"model": raw["model"], "tools": raw["tools"], "steps": []}
        if kind != "end":
            begun["steps"].append(_STEP.validate_python(raw))
            return begun
        raw.pop("kind")
        runs.append(Run.model_validate({**begun, **raw}))
    except (ValueError, ValidationError, AttributeError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path}, line {number}: not a line of a trace: {first}", hint="it was cut off or changed") from error
    return None
