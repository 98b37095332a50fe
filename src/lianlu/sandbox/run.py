"""Runs Python code that nobody has read: bubblewrap, limits, and nothing but text in and out.

The floor below tools and code evaluation (`agent.tools.python`, HumanEval). Each run gets a fresh interpreter, the base one
with the standard library alone, in namespaces of its own: see `sandbox.command` for what it sees, `sandbox.seccomp` for
what it cannot ask of the kernel, `sandbox.inside` for limits, `sandbox.watch` for the clock. There is no weaker way to
fall back to: where bubblewrap does not work, `run_python` raises and the code does not run.

Limits: Linux on x86_64 and aarch64. It is as strong as the kernel it runs on; a hole in the kernel is a hole in it. Two
runs at one time can measure each other's load.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import Field

from lianlu.core.config import Config
from lianlu.core.errors import DataError, MissingExtraError
from lianlu.sandbox import inside, seccomp
from lianlu.sandbox.command import bwrap_command, interpreter, spare_uid
from lianlu.sandbox.watch import KilledBy, Watch, wait_readable

# -I would ignore the variables that `sandbox.command` sets; -S leaves out installed packages, which differ by machine.
OPTIONS = ("-s", "-P", "-S", "-B", "-X", "utf8", "-c")
START_TIMEOUT_S = 30.0
MAX_OPEN_FILES = 256
INSTALL_HINT = "install it: apt-get install bubblewrap"
NAMESPACE_HINT = (
    "this system forbids the namespaces that the sandbox is made of; allow them. "
    "Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0; older Debian: sysctl kernel.unprivileged_userns_clone=1; "
    "Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)


class Limits(Config):
    """What one run may use. Whatever passes a limit fails or is killed."""

    wall_s: float = Field(default=10.0, gt=0)
    """Seconds from the start to the kill."""
    cpu_s: int = Field(default=10, ge=1)
    """Seconds of processor time of each process."""
    memory_bytes: int = Field(default=512 << 20, ge=128 << 20)
    """Address space of each process, and memory of all of them together."""
    file_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """All files together; they live in memory."""
    processes: int = Field(default=32, ge=1)
    """Processes and threads (Linux before 5.14 counts all those of the user)."""
    output_bytes: int = Field(default=1 << 20, ge=1)
    """Standard output and error together."""


@dataclass(frozen=True)
class Result:
    """What a run printed and how it ended. `killed_by` names the limit or is empty; `exit_code` is -N for signal N."""

    stdout: str
    stderr: str
    exit_code: int
    killed_by: KilledBy = ""

    @property
    def timed_out(self) -> bool:
        return self.killed_by in ("time", "cpu")

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


def run_python(
    code: str, limits: Limits | None = None, files: Mapping[str, str] | None = None, show_last: bool = False
) -> Result:
    """Run `code` in a sandbox and return what it printed.

    `files` are text files put into the work folder, which is the current one; with `show_last` the value of a last
    expression is printed as in a notebook. Raises: MissingExtraError where there is no sandbox, DataError for file names
    that leave the work folder or files above the limit.
    """
    limits = limits or Limits()
    _check_files(files or {}, limits)
    bwrap = _require_bwrap()
    uid = spare_uid()
    request = {
        "code": code,
        "show_last": show_last,
        "files": dict(files or {}),
        "uid": uid,
        "limits": _resource_limits(limits, uid),
    }
    with contextlib.ExitStack() as stack:
        info, info_end = _pipe(stack)
        ready, ready_end = _pipe(stack)
        stdin = _memory_file(stack, json.dumps(request | {"ready": ready_end.fileno()}).encode())
        system_calls = _memory_file(stack, seccomp.program())
        command = bwrap_command(bwrap, uid, limits.file_bytes, system_calls, info_end.fileno())
        process = subprocess.Popen(
            [*command, str(interpreter()[0]), *OPTIONS, Path(inside.__file__).read_text(encoding="utf-8")],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(system_calls, info_end.fileno(), ready_end.fileno()),
            # Process 1 of the sandbox shows the environment it was started with to the code.
            env={},
            cwd="/",
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        info_end.close()
        ready_end.close()
        return _result(process, info, ready, limits)


def check() -> str | None:
    """Why code cannot run in a sandbox here, with what to do about it; None if it can. Takes well under a second."""
    try:
        run_python("pass", Limits(wall_s=START_TIMEOUT_S))
    except MissingExtraError as error:
        return f"{error.message}; {error.hint}"
    return None


def _require_bwrap() -> str:
    """The path of bubblewrap. Raises: MissingExtraError."""
    if not sys.platform.startswith("linux") or not seccomp.supported():
        hint = "run lianlu on Linux with an x86_64 or aarch64 processor (a virtual machine will do)"
        raise MissingExtraError("there is no sandbox for code on this system", hint=hint)
    found = shutil.which("bwrap")
    if found is None:
        raise MissingExtraError("bubblewrap, which the sandbox for code needs, is not installed", hint=INSTALL_HINT)
    return found


def _check_files(files: Mapping[str, str], limits: Limits) -> None:
    for name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise DataError(f"{name!r} is no file name inside the work folder", hint="give a relative name without ..")
    size = sum(len(text.encode("utf-8", errors="surrogatepass")) for text in files.values())
    if size > limits.file_bytes:
        raise DataError(f"the files have {size} bytes, the sandbox allows {limits.file_bytes}", hint="raise file_bytes")


def _resource_limits(limits: Limits, uid: int | None) -> dict[str, int]:
    return {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": MAX_OPEN_FILES,
        # In a user namespace process 1, which is bubblewrap's, counts too.
        "RLIMIT_NPROC": limits.processes + (1 if uid is None else 0),
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_AS": limits.memory_bytes,
    }


def _pipe(stack: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    return stack.enter_context(open(reading, "rb", buffering=0)), stack.enter_context(open(writing, "wb", buffering=0))


def _memory_file(stack: contextlib.ExitStack, data: bytes) -> int:
    """A descriptor that reads `data`; it has no name and touches no disk."""
    file = os.fdopen(os.memfd_create("lianlu-sandbox"), "wb", buffering=0)
    stack.enter_context(file)
    file.write(data)
    file.seek(0)
    return file.fileno()


def _result(process: subprocess.Popen[bytes], info: IO[bytes], ready: IO[bytes], limits: Limits) -> Result:
    deadline = time.monotonic() + START_TIMEOUT_S
    first_pid = _first_pid(info, deadline)
    if first_pid is None or _read(ready, deadline) != b"1":
        raise _start_error(process)
    watch = Watch(process, first_pid, limits.output_bytes)
    watch.run(limits.wall_s, limits.memory_bytes)
    texts = {name: bytes(data).decode("utf-8", errors="replace") for name, data in watch.output.items()}
    if watch.killed_by:
        return Result(texts["stdout"], texts["stderr"], -signal.SIGKILL, watch.killed_by)
    code = process.returncode
    # bubblewrap reports signal N as 128 + N, as shells do.
    code = 128 - code if 128 < code <= 128 + signal.SIGRTMAX else code
    return Result(texts["stdout"], texts["stderr"], code, "cpu" if code == -signal.SIGXCPU else "")


def _first_pid(info: IO[bytes], deadline: float) -> int | None:
    """Process 1 of the sandbox as bubblewrap tells it; None if it ended before."""
    text = b""
    while data := _read(info, deadline):
        text += data
        with contextlib.suppress(ValueError):
            return int(json.loads(text)["child-pid"])
    return None


def _read(pipe: IO[bytes], deadline: float) -> bytes:
    """What the pipe has next; nothing at its end or after the deadline."""
    return os.read(pipe.fileno(), 4096) if wait_readable(pipe.fileno(), deadline - time.monotonic()) else b""


def _start_error(process: subprocess.Popen[bytes]) -> MissingExtraError:
    """Why the sandbox did not come up, from what bubblewrap or the code in front of the user's printed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    process.kill()
    lines = process.communicate()[1].decode("utf-8", errors="replace").strip().splitlines()
    said = lines[-1] if lines else "it gave no reason"
    hint = NAMESPACE_HINT
    if "nknown option" in said:
        hint = "bubblewrap 0.8 or newer is needed; upgrade it"
    elif not said.startswith("bwrap:"):
        hint = "run `lianlu doctor`, and report this if it stays"
    return MissingExtraError(f"the sandbox for code does not start: {said}", hint=hint)
