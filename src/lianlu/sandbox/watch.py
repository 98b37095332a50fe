"""Watches a sandbox from outside: collects its output, counts its memory, and kills all of it when a limit is passed.

Used by `sandbox.run`. Killing process 1 of the sandbox's process namespace makes the kernel kill every process in it, and
its process descriptor becomes readable only when they are all gone; so nothing outlives `finish`. The memory that counts
is that of all processes together, looked at every TICK_S: the per-process limit inside is exact, this one catches many
processes that are each within it.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Literal

KilledBy = Literal["", "time", "cpu", "memory", "output", "files"]
TICK_S = 0.05
CHUNK_BYTES = 1 << 16
MAX_WORK_FILES = 50_000


def wait_readable(descriptor: int, timeout_s: float | None) -> bool:
    """Wait until there is something to read (or the end of it); False when the time is over first."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(timeout_s, 0) * 1000))


class Watch:
    """A running sandbox: `process` is bubblewrap, `first_pid` the process 1 of its namespace as seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], first_pid: int, output_bytes: int) -> None:
        self.output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.killed_by: KilledBy = ""
        self._process = process
        self._first_pid = first_pid
        self._first = os.pidfd_open(first_pid)
        self._room = output_bytes
        self._streams = selectors.DefaultSelector()
        self._end = os.pidfd_open(process.pid)
        self._streams.register(self._end, selectors.EVENT_READ)
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            assert stream is not None
            self._streams.register(stream, selectors.EVENT_READ, name)

    def run(self, wall_s: float, memory_bytes: int) -> None:
        """Collect output until bubblewrap ends or a limit is passed; then nothing is left running."""
        deadline = time.monotonic() + wall_s
        try:
            while self._process.poll() is None and not self.killed_by:
                left_s = deadline - time.monotonic()
                self._collect(min(TICK_S, max(left_s, 0)))
                self.killed_by = self.killed_by or self._passed(left_s, memory_bytes)
        finally:
            self.finish()

    def finish(self) -> None:
        """Kill what still runs, wait until it is gone, and take the output that is left."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)
        wait_readable(self._first, None)
        self._process.wait()
        self._streams.unregister(self._end)
        while self._streams.get_map() and self.killed_by != "output":
            self._collect(TICK_S)
        self._streams.close()
        os.close(self._end)
        os.close(self._first)

    def _passed(self, left_s: float, memory_bytes: int) -> KilledBy:
        """The limit that is passed, if any."""
        if left_s <= 0:
            return "time"
        if self.memory_used() > memory_bytes:
            return "memory"
        return "files" if self.files_used() > MAX_WORK_FILES else ""

    def memory_used(self) -> int:
        """Bytes of anonymous and shared memory that all processes of the sandbox hold together."""
        return sum(_memory_bytes(pid) for pid in _family(self._first_pid))

    def files_used(self) -> int:
        """Number of files in the work folder (0 where this system does not let us look)."""
        with contextlib.suppress(OSError):
            state = os.statvfs(f"/proc/{self._first_pid}/root/tmp")
            return state.f_files - state.f_ffree
        return 0

    def _collect(self, wait_s: float) -> None:
        for key, _ in self._streams.select(wait_s):
            if key.data is None:
                continue
            stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
            data = os.read(stream.fileno(), CHUNK_BYTES)
            if not data:
                self._streams.unregister(stream)
            self.output[key.data] += data[: self._room]
            if len(data) > self._room:
                self.killed_by = self.killed_by or "output"
            self._room -= min(len(data), self._room)


def _family(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                found.extend(map(int, Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="ascii").split()))
    return found


def _memory_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return 0
