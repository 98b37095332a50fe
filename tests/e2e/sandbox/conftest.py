"""The box in which the escape attempts run, and the same without a box as a control.

A probe is a program that calls `attempt(action)`, which prints `GOT value` when the action succeeds and `DENIED error` when
it does not. Started as root, the suite runs twice: as it is, with the user id dropped inside, and as an ordinary user
with a user namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lianlu
from lianlu.sandbox.run import Limits, Result, check, run_python

ORDINARY_UID = 64321
SECRET = "swordfish-9341"

ATTEMPT = """
def attempt(action):
    try:
        value = action()
    except BaseException as error:
        print("DENIED", type(error).__name__, error, flush=True)
    else:
        print("GOT", repr(value)[:100], flush=True)

def call(name, *args):
    import ctypes, os
    ctypes.set_errno(0)
    value = getattr(ctypes.CDLL(None, use_errno=True), name)(*args)
    if value == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value
"""
DRIVER = """
import json, os, sys
from lianlu.sandbox.run import Limits, run_python
for line in sys.stdin:
    ask = json.loads(line)
    result = run_python(ask["code"], Limits(**ask["limits"]), ask["files"])
    print(json.dumps([result.stdout, result.stderr, result.exit_code, result.killed_by]), flush=True)
"""


def program(code: str) -> str:
    """A probe with the functions it may use in front."""
    return ATTEMPT + textwrap.dedent(code)


@dataclass(frozen=True)
class Box:
    """Runs probes: `run` inside the sandbox (code, files, limits), `outside` without one."""

    run: Callable[..., Result]
    secret: str = SECRET

    def outside(self, code: str, cwd: Path | None = None, before: tuple[str, ...] = ()) -> str:
        """What a probe prints without a sandbox; `before` is put in front of the command."""
        command = [*before, sys.executable, "-S", "-c", program(code)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False).stdout

    def denied(self, code: str, *errors: str, **limits: Any) -> int:
        """Run a probe and make sure that every attempt was denied with one of the errors; returns how many there were."""
        result = self.run(code, **limits)
        lines = result.stdout.splitlines()
        assert lines, f"no evidence: {result}"
        for line in lines:
            assert re.match(rf"DENIED ({'|'.join(errors)})\b", line), f"{line!r} in {result}"
        assert result.exit_code == 0
        return len(lines)


def own(code: str, files: dict[str, str] | None = None, **limits: Any) -> Result:
    return run_python(program(code), Limits(**limits), files)


@contextlib.contextmanager
def ordinary_user() -> Iterator[subprocess.Popen[str]]:
    """A process of an ordinary user that runs what it is told; the interpreter is shown to it outside root's home."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        shown = {
            "python": sys.base_prefix,
            "site": sysconfig.get_paths()["purelib"],
            "src": str(Path(lianlu.__file__).parents[1]),
        }
        script = [f"mkdir {name}/{key} && mount --bind {path} {name}/{key}" for key, path in shown.items()]
        python = f"{name}/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        script.append(f'exec setpriv --reuid {ORDINARY_UID} --regid {ORDINARY_UID} --clear-groups {python} -S -c "$DRIVER"')
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", " && ".join(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "DRIVER": DRIVER, "SECRET": SECRET, "HOME": "/nonexistent"}
            | {"PYTHONPATH": f"{name}/src:{name}/site", "LD_LIBRARY_PATH": f"{name}/python/lib"},
            text=True,
        )
        with process:
            yield process
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture(scope="session", params=["own", "ordinary"])
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """The sandbox, started by whoever runs the tests or by an ordinary user."""
    if (reason := check()) is not None:
        pytest.skip(f"needs a sandbox: {reason}")
    if request.param == "own":
        yield Box(own)
        return
    if os.geteuid() != 0:
        pytest.skip("the tests already run as an ordinary user")
    with ordinary_user() as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def tell(code: str, files: dict[str, str] | None = None, **limits: Any) -> Result:
            process.stdin.write(json.dumps({"code": program(code), "limits": limits, "files": files}) + "\n")
            process.stdin.flush()
            return Result(*json.loads(process.stdout.readline()))

        yield Box(tell)


@pytest.fixture(autouse=True)
def secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
