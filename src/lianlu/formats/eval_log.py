"""Evaluation logs: what a model was asked, what it said, and how that was scored, as JSONL, one sample a line.

The first line is the header: model, task, dataset and protocol with their hashes, the metrics, and how many samples
follow, so that a cut file is noticed. Numbers of two logs may be compared only if dataset and protocol hashes are equal.
The `eval` stage writes one log a task; `compare` and the report read them. Everything in a log is a function of model and
task: no times, no paths.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write

FORMAT = 1
KIND = "eval-log"
Aggregate = Literal["mean", "exp-mean"]


class MetricSpec(BaseModel):
    """How one number comes out of the samples.

    It is the mean of the sample scores named `score` (default: the metric's own name), each with its weight of that name
    (default 1); `exp-mean` is the exponential of that mean (perplexity).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    score: str = ""
    aggregate: Aggregate = "mean"
    higher_is_better: bool = True

    @property
    def key(self) -> str:
        return self.score or self.name


class ModelRef(BaseModel):
    """Which model answered: content digests (hex), and a name for people."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = ""
    digest: str = ""
    adapter_digest: str = ""


class Header(BaseModel):
    """The first line of a log. `protocol` is everything that turns an item into requests and replies into scores."""

    model_config = ConfigDict(extra="forbid")
    lianlu: Literal["eval-log"] = "eval-log"
    format: int = FORMAT
    task: str
    model: ModelRef
    dataset: str
    dataset_hash: str
    protocol: dict[str, Any]
    protocol_hash: str
    metrics: list[MetricSpec] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    num_samples: int = Field(ge=0)


class Extracted(BaseModel):
    """An answer cut out of a reply: its text, the rule that found it, and where (`rule="none"`: nothing was found)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rule: str
    text: str = ""
    start: int = -1
    end: int = -1

    @property
    def found(self) -> bool:
        return self.start >= 0


class Tokens(BaseModel):
    """Tokens read and written for one sample."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: int = 0
    completion: int = 0


class Sample(BaseModel):
    """One item of the task as it went: `logprobs` are those of the scored continuations, in nats, in order of requests."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
    id: str
    cluster: str = ""
    input: str
    target: str
    outputs: list[str] = Field(default_factory=list)
    logprobs: list[float] = Field(default_factory=list)
    extracted: list[Extracted] = Field(default_factory=list)
    scores: dict[str, float]
    weights: dict[str, float] = Field(default_factory=dict)
    tokens: Tokens = Tokens()
    note: str = ""


@dataclass(frozen=True)
class EvalLog:
    """A whole log in memory."""

    header: Header
    samples: Sequence[Sample]


def write_log(path: Path, header: Header, samples: Iterable[Sample]) -> None:
    """Write a log; whole or not at all. Raises: DataError if the header's count of samples is not met."""
    count = 0
    with atomic_write(path, "w") as file:
        file.write(header.model_dump_json() + "\n")
        for sample in samples:
            file.write(sample.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
        if count != header.num_samples:
            raise DataError(f"{count} samples for a log of {header.num_samples} ({path})")


def read_log(path: Path) -> EvalLog:
    """Read a whole log. Raises: DataError that names file and line (future version, cut short, not a log)."""
    lines = _lines(path)
    header = _header(path, next(lines, (1, "")))
    samples = []
    for number, line in lines:
        samples.append(_parse(Sample, path, number, line))
    if len(samples) != header.num_samples:
        what = f"{path} holds {len(samples)} of {header.num_samples} samples: it was cut short or joined"
        raise DataError(what, hint="evaluate again, or copy the file again")
    return EvalLog(header, samples)


def read_header(path: Path) -> Header:
    """Read only the first line of a log."""
    lines = _lines(path)
    try:
        return _header(path, next(lines, (1, "")))
    finally:
        lines.close()


def log_paths(folder: Path) -> list[Path]:
    """The logs of an evaluation, by name. Raises: DataError if there are none."""
    if folder.is_file():
        return [folder]
    if found := sorted(folder.glob("*.jsonl")):
        return found
    raise DataError(f"there are no evaluation logs in {folder}", hint="point to the output of an eval step")


def _lines(path: Path) -> Generator[tuple[int, str], None, None]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    raise DataError(f"{path}, line {number}: cut short", hint="evaluate again, or copy the file again")
                yield number, line
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", hint="check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not a log", hint="name one of the .jsonl files in it") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", hint="it is no evaluation log") from error


def _header(path: Path, first: tuple[int, str]) -> Header:
    try:
        raw = json.loads(first[1])
    except ValueError as error:
        raise DataError(f"{path} is not an evaluation log", hint="its first line has to be a header") from error
    if not isinstance(raw, dict) or raw.get("lianlu") != KIND:
        holds = raw.get("lianlu") if isinstance(raw, dict) else None
        raise DataError(f"{path} holds {holds or 'something else'}, not an evaluation log", hint="point to another file")
    version = raw.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise DataError(f"{path} has format {version}, this lianlu reads up to {FORMAT}", hint="upgrade lianlu")
    return _parse(Header, path, *first)


M = TypeVar("M", bound=BaseModel)


def _parse(cls: type[M], path: Path, number: int, line: str) -> M:
    try:
        return cls.model_validate_json(line)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        what = f"{path}, line {number}: not a valid {cls.__name__.lower()}: {where} {detail['msg']}"
        raise DataError(what, hint="docs/formats.md shows the shape") from error
