"""`lianlu doctor`: what this machine has and lacks, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from lianlu.core import console, machine

MIN_MEMORY_BYTES = 4_000_000_000
MIN_DISK_BYTES = 3_000_000_000


@dataclass(frozen=True)
class Check:
    """One finding. `needed`: the chain does not run without it."""

    what: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def checks() -> list[Check]:
    """All findings, the essential ones first."""
    return [_python(), _torch(), _memory(), _disk(), _sandbox(), _model(), _bf16(), _gpu()]


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, sys.version.split()[0], "" if ok else "install Python 3.11 or newer")


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("torch", False, "not installed", "pip install torch==2.13.0")
    version = importlib.metadata.version("torch")
    ok = version.startswith("2.13.0")
    return Check("torch", ok, version, "" if ok else "pip install torch==2.13.0 (the pinned version)")


def _memory() -> Check:
    size = machine.memory_bytes()
    found = f"{console.format_bytes(size)}, {machine.num_cores()} cores, {machine.cpu_name()}"
    return Check("memory", size >= MIN_MEMORY_BYTES, found, "" if size >= MIN_MEMORY_BYTES else "the tiny recipe needs 4 GB")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    ok = free >= MIN_DISK_BYTES
    return Check("disk", ok, f"{console.format_bytes(free)} free here", "" if ok else "free 3 GB, or set LIANLU_HOME")


def _sandbox() -> Check:
    from lianlu.sandbox.run import check

    problem = check()
    return Check("sandbox", problem is None, problem or "bubblewrap works", "apt-get install bubblewrap" if problem else "")


def _model() -> Check:
    from lianlu.model.pull import local_path

    path = local_path("smollm2-135m-instruct")
    remedy = "" if path else "lianlu pull smollm2-135m-instruct (98 MB; `lianlu run` does it by itself)"
    return Check("embedded model", path is not None, str(path or "not fetched yet"), remedy, needed=False)


def _bf16() -> Check:
    fast = machine.cpu_flags() & {"avx512_bf16", "amx_bf16"}
    found = ", ".join(sorted(fast)) or "no fast bf16 on this processor"
    return Check("bf16 on the CPU", bool(fast), found, "" if fast else "nothing to do: fp32 is used", needed=False)


def _gpu() -> Check:
    names = machine.gpu_names()
    return Check("GPU", bool(names), ", ".join(names) or "none", "" if names else "not needed for the tiny recipe", needed=False)
