"""Killed with signal 9 at moments nobody chose, a run ends in the bytes an unbroken one ends in.

The stage runs in processes of a fork server that has imported everything once, so that the kills fall into the work.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lianlu.core.files import files_below
from lianlu.core.store import Output
from lianlu.train import pretrain, sft

pytestmark = pytest.mark.e2e
NUM_KILLS = 3
MakeOutput = Callable[[str], Output]


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lianlu.train.pretrain_task", "lianlu.train.sft_task", "lianlu.train.loop"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield context


def contents(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files_below(folder)}
    return {name: data for name, data in found.items() if not name.startswith("logs/")}


@pytest.mark.parametrize("name", ["pretrain", "sft"])
def test_killed_anywhere_it_ends_in_the_same_bytes(
    name: str, processes: Any, pretrain_config: Any, sft_config: Any, new_output: MakeOutput
) -> None:
    stage = {"pretrain": pretrain, "sft": sft}[name]
    often = {
        "checkpoint": {"every": 1, "asynchronous": name == "pretrain"},
        "sample_every": 5,
        "eval_every": 3,
        "precision": "bfloat16",
    }
    config = pretrain_config(steps=20, **often) if name == "pretrain" else sft_config(epochs=3, **often)
    whole, broken = new_output("whole"), new_output("broken")
    started = time.monotonic()
    stage.run(config, whole)
    duration_s = time.monotonic() - started
    chance = random.Random(name)
    kills = 0
    for _ in range(NUM_KILLS):
        process = processes.Process(target=stage.run, args=(config, Output(broken.path)))
        process.start()
        process.join(timeout=chance.uniform(0.1, 0.7) * duration_s)
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills
    stage.run(config, broken)
    assert contents(broken.path) == contents(whole.path)
