"""Jobs in a pool of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.core.pool import HELD, in_order


def test_results_come_in_the_order_of_the_jobs() -> None:
    seconds = [0.3, 0.0, 0.1, 0.0, 0.0]
    assert [job for job, _ in in_order(time.sleep, seconds, 2, str)] == seconds
    assert list(in_order(abs, range(-20, 0), 2, str)) == [(job, -job) for job in range(-20, 0)]
    assert list(in_order(abs, [], 2, str)) == []


def test_only_a_few_jobs_are_taken_ahead() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(50):
            taken.append(job)
            yield job

    results = in_order(abs, jobs(), 2, str)
    next(results)
    assert len(taken) == 2 * HELD
    results.close()


def test_every_worker_begins(tmp_path: Path) -> None:
    assert list(in_order(os.path.abspath, ["x"] * 5, 2, str, partial(os.chdir, tmp_path))) == [("x", str(tmp_path / "x"))] * 5


def test_an_error_of_the_function_comes_out() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_order(int, ["1", "2", "three"], 2, str))


def test_a_dead_worker_is_told_with_what_it_did() -> None:
    with pytest.raises(DataError, match="died while it read 7") as caught:
        list(in_order(os._exit, [7, 7], 1, "read {}".format))
    assert "memory" in caught.value.hint


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
from functools import partial
from lianlu.core.pool import in_order
if __name__ == "__main__":
    for _ in in_order(os.system, [f"echo $PPID >> {sys.argv[1]}"] * 40, 2, str):
        pass
    for _ in in_order(os.system, [f"echo $PPID >> {sys.argv[1]}; sleep 0.2"] * 6 + ["sleep 60"] * 9, 2, str):
        os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "parent.py").write_text(script)
    subprocess.run([sys.executable, tmp_path / "parent.py", tmp_path / "pids"], check=False, timeout=60)
    workers = {int(line) for line in (tmp_path / "pids").read_text().split()}
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
