"""Task humaneval: 164 Python functions to complete (Chen et al. 2021), as lm-evaluation-harness asks and scores them.

The prompt is the beginning of a program; the reply, greedy and cut at the stops, is put after it, then the tests of the
item. The program runs in the sandbox and has to come to its end: pass@1. Limits: 3 s of processor time (human-eval counts
3 s by the clock, which a busy machine would turn into failures), and what the sandbox allows by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from lianlu.client.base import CompletionRequest, Reply, Sampling
from lianlu.core.config import Config
from lianlu.eval.extract import cut
from lianlu.eval.sources import Sources, first, rows
from lianlu.eval.task import Item, Request, Response, Score, Task
from lianlu.formats.eval_log import MetricSpec
from lianlu.sandbox.run import Limits, Result, run_python

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
LIMITS = Limits(wall_s=20.0, cpu_s=3)
DONE = "humaneval: all tests passed"
METRICS = (MetricSpec(name="pass@1"),)


class HumanEvalTask(Config):
    """HumanEval with lm-eval's protocol, from `benchmarks`/humaneval/HumanEval.jsonl[.gz]."""

    kind: Literal["humaneval"] = "humaneval"
    name: str = ""
    """What the task is called in logs and scores (default: its kind)."""
    limit: int = Field(default=0, ge=0)
    """The first so many functions (0: all 164)."""
    max_tokens: int = Field(default=1024, gt=0)
    """Cap of a completion, in tokens."""


def build(config: HumanEvalTask, sources: Sources) -> Task:
    """The task over all functions. Raises: ConfigError, DataError."""
    path = sources.benchmark("humaneval", "HumanEval.jsonl.gz", "HumanEval.jsonl")
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    items = [
        Item(
            row["task_id"],
            row["prompt"],
            row["canonical_solution"],
            fields={"test": row["test"], "entry_point": row["entry_point"]},
        )
        for row in first(rows(path, names), config.limit)
    ]
    sampling = Sampling(max_tokens=config.max_tokens, stop=STOPS)

    def requests(item: Item) -> list[Request]:
        return [CompletionRequest(item.input, sampling)]

    protocol = {
        "name": "lm-eval humaneval 1",
        "stops": list(STOPS),
        "max_tokens": config.max_tokens,
        "limits": LIMITS.model_dump(),
    }
    return Task("humaneval", "humaneval", items, protocol, METRICS, requests, score, needs_sandbox=True)


def program(item: Item, completion: str) -> str:
    """The program that checks a completion; its last line tells that the tests have been passed."""
    tests = f"{item.fields['test']}\ncheck({item.fields['entry_point']})"
    return f"{item.input}{completion}\n{tests}\nprint({DONE!r})\n"


def score(item: Item, responses: Sequence[Response]) -> Score:
    """1 if the program comes to its end. Raises: MissingExtraError where there is no sandbox."""
    completion = cut(responses[0].text if isinstance(responses[0], Reply) else "", STOPS)
    result = run_python(program(item, completion), LIMITS)
    passed = result.ok and result.stdout.rstrip().endswith(DONE)
    return Score({"pass@1": float(passed)}, note="" if passed else _why(result))


def _why(result: Result) -> str:
    """Why a program failed, in words that do not change from run to run: the limit, or the name of the exception."""
    if result.killed_by:
        return f"killed: {result.killed_by}"
    last = (result.stderr.strip().splitlines() or [""])[-1]
    named = re.match(r"[A-Za-z_][\w.]*", last)
    return named.group() if named else f"exit code {result.exit_code}"
