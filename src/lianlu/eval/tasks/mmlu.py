"""Task mmlu: 57 subjects of multiple choice (Hendrycks et al. 2021), as lm-evaluation-harness asks and scores it.

For each question the log-probabilities of " A", " B", " C" and " D" after the prompt are compared; the prompt is a line
about the subject, the first worked examples of the subject's dev split, and the question. The prompts of a subject begin
alike, so that the engine may compute that beginning once. The score counts every question alike (micro average, as
lm-eval's group `mmlu`); sample ids begin with the subject.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from lianlu.client.base import Scored, ScoreRequest
from lianlu.core.config import Config
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import sha256_json
from lianlu.eval.sources import Sources, first
from lianlu.eval.task import Item, Request, Response, Score, Task
from lianlu.formats.eval_log import Extracted, MetricSpec

LETTERS = "ABCD"
METRICS = (MetricSpec(name="acc"),)


class MmluTask(Config):
    """MMLU with lm-eval's protocol, from `benchmarks`/mmlu/mmlu.zip."""

    kind: Literal["mmlu"] = "mmlu"
    name: str = ""
    """What the task is called in logs and scores (default: its kind)."""
    limit: int = Field(default=0, ge=0)
    """The first so many questions of each subject (0: all)."""
    subjects: list[str] = Field(default_factory=list)
    """Only these subjects, as their files are named (none: all 57)."""
    shots: int = Field(default=5, ge=0, le=5)
    """Worked examples from the dev split."""


def build(config: MmluTask, sources: Sources) -> Task:
    """The task over the test split. Raises: ConfigError, DataError."""
    path = sources.benchmark("mmlu", "mmlu.zip")
    prefixes: dict[str, str] = {}
    items: list[Item] = []
    for subject, dev, test in _subjects(path, config.subjects):
        topic = subject.replace("_", " ")
        prefixes[subject] = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
        prefixes[subject] += "".join(f"{ask(row)} {row[5]}\n\n" for row in dev[: config.shots])
        for number, row in enumerate(first(test, config.limit)):
            items.append(Item(f"{subject}/{number}", ask(row), row[5], fields={"subject": subject}))

    def requests(item: Item) -> list[Request]:
        context = prefixes[item.fields["subject"]] + item.input
        return [ScoreRequest(context, f" {letter}") for letter in LETTERS]

    protocol = {"name": "lm-eval mmlu", "shots": config.shots, "shots_hash": sha256_json(prefixes)}
    return Task("mmlu", "mmlu test", items, protocol, METRICS, requests, score)


def ask(row: Sequence[str]) -> str:
    """A row (question, four choices, letter) as it is asked."""
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0].strip()}\n{choices}\nAnswer:"


def score(item: Item, responses: Sequence[Response]) -> Score:
    """Right if the right letter is the most likely one (the first of equals)."""
    logprobs = [response.logprob for response in responses if isinstance(response, Scored)]
    chosen = LETTERS[logprobs.index(max(logprobs))]
    return Score({"acc": float(chosen == item.target)}, extracted=[Extracted(rule="most likely letter", text=chosen)])


def _subjects(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, list[list[str]], list[list[str]]]]:
    """Name, dev rows and test rows of each subject, by name, read out of the archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            tests = {Path(name).name.removesuffix("_test.csv"): name for name in archive.namelist() if name.endswith("_test.csv")}
            if unknown := sorted(set(wanted) - set(tests)):
                raise ConfigError(f"mmlu: no subject {', '.join(unknown)}", hint=f"subjects: {', '.join(sorted(tests))}")
            for subject in sorted(wanted or tests):
                name = tests[subject]
                yield (
                    subject,
                    _table(archive, name.replace("test/", "dev/").replace("_test.csv", "_dev.csv")),
                    _table(archive, name),
                )
    except (zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="the archive is damaged or another one: fetch it again") from error


def _table(archive: zipfile.ZipFile, name: str) -> list[list[str]]:
    with archive.open(name) as file:
        found = list(csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline="")))
    if bad := [number for number, row in enumerate(found, 1) if len(row) != 6 or row[5] not in LETTERS]:
        raise DataError(f"{archive.filename}: {name}, row {bad[0]} is not a question with four choices and a letter")
    return found
