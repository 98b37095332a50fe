"""HumanEval: its own solutions have to pass, all 164 of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lianlu.client.base import Reply
from lianlu.eval.sources import Sources
from lianlu.eval.task import Score
from lianlu.eval.tasks.humaneval import HumanEvalTask, build
from lianlu.formats.messages import Message
from lianlu.sandbox.run import check as sandbox_problem


def test_canonical_solutions_pass_and_empty_ones_fail(shared_data: Path):
    if problem := sandbox_problem():
        pytest.skip(problem)
    task = build(HumanEvalTask(), Sources(benchmarks=shared_data / "eval"))

    def judged(index: int, completion: str) -> Score:
        return task.score(task.items[index], [Reply(Message(role="assistant", content=completion), "stop")])

    assert len(task.items) == 164
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(lambda index: judged(index, task.items[index].target), range(164)))
        wrong = list(pool.map(lambda index: judged(index, "    return None\n"), range(0, 164, 12)))
    assert [item.id for item, score in zip(task.items, right, strict=True) if score.values["pass@1"] != 1] == []
    assert sum(score.values["pass@1"] for score in wrong) == 0
