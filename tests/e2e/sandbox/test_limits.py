"""Attempts to harm other processes, to stay, and to use up time, memory or space. Every one has to end at its limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def processes(marker: str) -> list[int]:
    """Processes on this machine that are called `sleep MARKER`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(f"sleep\0{marker}".encode()):
                found.append(int(folder.name))
    return found


def wait_for(marker: str) -> list[int]:
    """The same, once there are any."""
    deadline = time.monotonic() + 20
    while not processes(marker) and time.monotonic() < deadline:
        time.sleep(0.02)
    return processes(marker)


# Processes


def test_other_processes_are_out_of_reach(box: Any) -> None:
    with subprocess.Popen(["sleep", "600"]) as bystander:
        probe = f"import os\nfor pid in {[bystander.pid, os.getpid()]}: attempt(lambda: os.kill(pid, 0))"
        assert box.outside(probe).count("GOT") == 2
        box.denied(probe, "ProcessLookupError")
        assert (
            box.run("import os; print(max(int(name) for name in os.listdir('/proc') if name.isdigit()) < 20)").stdout == "True\n"
        )
        stop = (
            f"import os\nfor pid in {[bystander.pid, 1]}:\n  for signal in (19, 15, 9): attempt(lambda: os.kill(pid, signal))\n"
        )
        assert box.run(stop).stdout.count("\n") == 6
        assert bystander.poll() is None
        assert box.outside(f"import os\nattempt(lambda: os.kill({bystander.pid}, 15))").startswith("GOT")
        assert bystander.wait(10) == -signal.SIGTERM


def test_fork_bomb(box: Any) -> None:
    probe = """
        import os, time
        children = 0
        try:
            while children < 60:
                if os.fork() == 0:
                    time.sleep(LONG)
                    os._exit(0)
                children += 1
        except BlockingIOError:
            print("DENIED", children, flush=True)
        else:
            print("GOT", children)
    """
    said = box.run(probe.replace("LONG", "20"), processes=16, wall_s=5).stdout.split()
    assert said[0] == "DENIED"
    assert 10 <= int(said[1]) <= 16
    assert box.outside(probe.replace("LONG", "0")).split() == ["GOT", "60"]
    endless = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    assert box.run(endless, processes=16, wall_s=1).killed_by == "time"
    assert box.run("print('next')").stdout == "next\n"


def test_daemons_do_not_outlive_the_run(box: Any) -> None:
    marker = f"{os.getpid() + 0.25}"
    probe = f"""
        import os
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 3)
                os.execv("/bin/sleep", ["sleep", "{marker}"])
            os._exit(0)
        os.wait()
        print("GOT started")
    """
    assert box.run(probe).stdout == "GOT started\n"
    assert processes(marker) == []
    assert box.outside(probe) == "GOT started\n"
    (daemon,) = wait_for(marker)
    os.kill(daemon, signal.SIGKILL)


def test_the_sandbox_dies_with_its_parent() -> None:
    marker = f"{os.getpid() + 0.75}"
    code = f"import os; os.execv('/bin/sleep', ['sleep', '{marker}'])"
    parent = f"from lianlu.sandbox.run import *; run_python({code!r}, Limits(wall_s=60))"
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        assert wait_for(marker)
        process.kill()
    deadline = time.monotonic() + 10
    while processes(marker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes(marker) == []


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(1000)", "while True: pass", "import threading; threading.Event().wait()"]
)
def test_runs_without_end(box: Any, code: str) -> None:
    deaf = """
        import signal
        for number in set(signal.valid_signals()) - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        print("started", flush=True)
    """
    result = box.run(textwrap.dedent(deaf) + code, wall_s=0.5)
    assert (result.stdout, result.killed_by, result.exit_code) == ("started\n", "time", -signal.SIGKILL)


def test_processor_time(box: Any) -> None:
    result = box.run("while True: pass", cpu_s=1)
    assert (result.killed_by, result.exit_code, result.timed_out) == ("cpu", -signal.SIGXCPU, True)


# Memory and space


def test_two_gigabytes_at_once(box: Any) -> None:
    probe = "import mmap; attempt(lambda: len(mmap.mmap(-1, 2 << 30)))"
    assert box.outside(probe).startswith("GOT")
    box.denied(probe, "OSError")
    box.denied("attempt(lambda: bytearray(2 << 30))", "MemoryError")


def test_memory_of_many_processes_together(box: Any) -> None:
    probe = """
        import os, time
        for _ in range(COUNT):
            if os.fork() == 0:
                block = bytearray(60 << 20)
                time.sleep(0.5)
                os._exit(0)
        os.wait()
    """
    assert box.run(probe.replace("COUNT", "12"), memory_bytes=200 << 20).killed_by == "memory"
    assert box.run(probe.replace("COUNT", "1"), memory_bytes=200 << 20).exit_code == 0


def test_memory_that_belongs_to_no_process(box: Any) -> None:
    probe = """
        def fill(folder):
            for number in range(100):
                with open(f"{folder}/{number}", "wb") as file:
                    file.write(bytes(1 << 20))
        attempt(lambda: fill("/dev/shm"))
        attempt(lambda: fill("/tmp"))
    """
    box.denied(probe, "OSError", file_bytes=16 << 20)


def test_one_gigabyte_files(box: Any, tmp_path: Path) -> None:
    sparse = """
        import os
        open("big", "w").close()
        attempt(lambda: os.truncate("big", 1 << 30))
    """
    assert box.outside(sparse, tmp_path).startswith("GOT")
    box.denied(sparse, "OSError")
    grown = """
        def grow():
            with open("big", "wb") as file:
                for _ in range(1024):
                    file.write(bytes(1 << 20))
        attempt(grow)
    """
    box.denied(grown, "OSError")


def test_a_million_empty_files(box: Any) -> None:
    assert box.run("number = 0\nwhile True:\n    open(str(number), 'w').close()\n    number += 1").killed_by == "files"


def test_one_gigabyte_of_output(box: Any) -> None:
    result = box.run("import os\nfor _ in range(1024): os.write(1, b'x' * (1 << 20))", output_bytes=10_000)
    assert (result.killed_by, result.stdout) == ("output", "x" * 10_000)
    both = box.run("import os\nwhile True:\n    os.write(1, b'1' * 1000)\n    os.write(2, b'2' * 1000)", output_bytes=10_000)
    assert len(both.stdout) + len(both.stderr) == 10_000


# What has to work


def test_ordinary_work_goes_on(box: Any) -> None:
    probe = """
        import concurrent.futures, os, pathlib, sqlite3, subprocess, tempfile, threading
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            print(sum(pool.map(abs, range(-9, 0))))
        thread = threading.Thread(target=print, args=["thread"])
        thread.start()
        thread.join()
        print(subprocess.run(["sh", "-c", "echo shell"], capture_output=True, text=True).stdout.strip())
        print(pathlib.Path("in/a.txt").read_text(), sqlite3.connect("db").execute("select 6 * 7").fetchone()[0])
        print(tempfile.mkdtemp()[:5], os.getcwd())
    """
    result = box.run(probe, files={"in/a.txt": "given"})
    assert (result.stdout.split(), result.stderr) == (["45", "thread", "shell", "given", "42", "/tmp/", "/tmp"], "")
