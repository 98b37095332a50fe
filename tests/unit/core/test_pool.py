"""Jobs in a pool of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.core.pool import HELD, Here, Lost, Pool, in_order


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


def test_an_error_of_the_function_comes_out() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_order(int, ["1", "2", "three"], 2, str))


def test_a_dead_worker_is_told_with_what_it_did() -> None:
    with pytest.raises(DataError, match="died while it read 7") as caught:
        list(in_order(os._exit, [7, 7], 1, "read {}".format))
    assert "memory" in caught.value.hint


def test_a_job_that_takes_its_process_down_is_lost_alone() -> None:
    jobs = [signal.SIGCONT, signal.SIGSEGV, signal.SIGCONT, signal.SIGKILL, signal.SIGCONT]
    wanted = [(job, None if job == signal.SIGCONT else Lost("died")) for job in jobs]
    assert list(Pool(2).results(signal.raise_signal, jobs)) == wanted
    assert list(Pool(2).alone().results(signal.raise_signal, jobs)) == wanted


def test_a_job_whose_process_died_is_tried_again(tmp_path: Path) -> None:
    job = f"test -e {tmp_path}/tried || {{ touch {tmp_path}/tried; kill -9 $PPID; }}"
    assert list(Pool(1).results(os.system, [job])) == [(job, 0)]


def test_a_job_that_hangs_is_lost_and_the_rest_go_on() -> None:
    assert list(Pool(2).results(time.sleep, [0, 3600, 0], limit_s=2)) == [(0, None), (3600, Lost("took too long")), (0, None)]


def test_an_exception_that_cannot_travel_is_told_and_a_job_that_cannot_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="Local: x"):
        list(Pool(1).results(exec, ["class Local(Exception): pass\nraise Local('x')"]))
    with pytest.raises(ZeroDivisionError):
        list(Pool(1).results(abs, [Unreadable()]))


class Unreadable:
    """Nothing that a worker can make sense of."""

    def __reduce__(self) -> tuple[object, tuple[int, int]]:
        return divmod, (1, 0)


def test_closing_ends_the_processes_that_are_at_work() -> None:
    results = Pool(2).results(eval, ["__import__('os').getpid()"] + ["__import__('time').sleep(3600)"] * 8)
    _, pid = next(results)
    results.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_outlives_its_job_does_not_hide_its_death(tmp_path: Path) -> None:
    (tmp_path / "stay").touch()
    job = f"(while test -e {tmp_path}/stay; do sleep 0.1; done) & kill -9 $PPID"
    assert list(Pool(1).results(os.system, [job])) == [(job, Lost("died"))]
    (tmp_path / "stay").unlink()


def test_a_script_that_starts_itself_over_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("from lianlu.core.pool import Pool\nprint(list(Pool(1).results(abs, [1])))\n")
    done = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True, check=False)
    assert "DataError: a worker could not be started" in done.stderr


def test_this_process_gives_the_same() -> None:
    assert list(Here().results(abs, [-1, 2])) == list(Pool(2).results(abs, [-1, 2])) == [(-1, 1), (2, 2)]
    assert list(in_order(abs, [-1], Here().alone(), str)) == [(-1, 1)]


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
    workers = {int(line) for line in (tmp_path / "pids").read_text().split()} - {1}  # whose worker went first
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
