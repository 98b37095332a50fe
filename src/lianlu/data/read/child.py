"""A child process that can be killed: bytes go in, bytes come out, and a parser that hangs or crashes harms nobody.

Each piece of work gets a limit of processor time, kept by the kernel: an interval timer whose signal is left at its default,
which ends the process even inside a C parser. Memory is limited likewise. The parent sees the pipe close and starts another.

    stdin    8 bytes of length, then the work; again and again
    stdout   8 bytes of length, then the answer (empty: nothing found)
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence

from lianlu.data.rules.thresholds import Verdict

MAX_MEMORY_BYTES = 4 << 30
_LENGTH = struct.Struct("<Q")


class Child:
    """The parent's end; the process starts with the first piece of work and lives until `close`.

    `command` is a module with arguments; the limit in seconds is added as the last one.
    """

    def __init__(self, command: Sequence[str], limit_s: float) -> None:
        self.limit_s = limit_s
        self._command = [sys.executable, "-m", *command, str(limit_s)]
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, work: bytes) -> bytes | Verdict:
        """The answer to a piece of work, or what became of the process."""
        child = self.process or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(_LENGTH.pack(len(work)) + work)
            child.stdin.flush()
            header = child.stdout.read(_LENGTH.size)
            size = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else -1
            answer = child.stdout.read(size) if size >= 0 else b""
        except BrokenPipeError:
            size, answer = -1, b""
        return answer if len(answer) == size else self._autopsy(child)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self._bury(self.process)

    def _start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return self.process

    def _autopsy(self, child: subprocess.Popen[bytes]) -> Verdict:
        code = self._bury(child)
        if code == -signal.SIGPROF:
            return Verdict("extract.max_seconds", "over", self.limit_s)
        return Verdict("extract.crashed", f"signal {-code}" if code < 0 else f"exit code {code}", "a parser that survives")

    def _bury(self, child: subprocess.Popen[bytes]) -> int:
        self.process = None
        code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code


def serve(answer_to: Callable[[bytes], bytes], limit_s: float) -> None:
    """The child's end: answer until the pipe closes."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, pipe = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    while header := source.read(_LENGTH.size):
        work = source.read(_LENGTH.unpack(header)[0])
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        answer = answer_to(work)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.write(_LENGTH.pack(len(answer)) + answer)
        pipe.flush()
