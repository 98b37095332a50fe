"""Task humaneval: programs are put together and judged by whether they come to their end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.client.base import Reply
from lianlu.eval.sources import Sources
from lianlu.eval.task import Task
from lianlu.eval.tasks import humaneval
from lianlu.eval.tasks.humaneval import HumanEvalTask, build
from lianlu.formats.messages import Message
from lianlu.sandbox.run import Limits
from lianlu.sandbox.run import check as sandbox_problem

ROW = {
    "task_id": "T/0",
    "prompt": "import sys\n\n\ndef add(a, b):\n    'Add.'\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
needs_sandbox = pytest.mark.skipif(sandbox_problem() is not None, reason="needs the sandbox (bubblewrap)")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(ROW) + "\n")
    return build(HumanEvalTask(), Sources(benchmarks=tmp_path))


def test_the_request_is_the_raw_prompt(task: Task):
    (request,) = task.requests(task.items[0])
    assert request.prompt == ROW["prompt"]
    assert request.sampling.stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert (request.sampling.max_tokens, request.sampling.temperature) == (1024, 0.0)


@needs_sandbox
@pytest.mark.parametrize(("completion", "passed", "note"), [
    ("    return a + b\n", 1.0, ""),
    ("    return a + b\n\ndef add(a, b):\n    return 0\n", 1.0, ""),
    ("    return a - b\n", 0.0, "AssertionError"),
    ("    return a +\n", 0.0, "SyntaxError"),
    ("    sys.exit(0)\n", 0.0, "exit code 0"),
    ("    while True: pass\n", 0.0, "killed: cpu"),
    ("", 0.0, "AssertionError"),
])  # fmt: skip
def test_a_program_has_to_come_to_its_end(task: Task, monkeypatch, completion: str, passed: float, note: str):
    monkeypatch.setattr(humaneval, "LIMITS", Limits(cpu_s=1))
    score = task.score(task.items[0], [Reply(Message(role="assistant", content=completion), "stop")])
    assert (score.values["pass@1"], score.note) == (passed, note)
