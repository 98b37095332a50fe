"""What this machine is and what a step used of it, read from the operating system; nothing here needs torch."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# parameters of glibc's mallopt (malloc.h)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# what glibc moves them to by itself in a process that frees large pieces: to be mapped, to be given back
_USUAL_THRESHOLDS = (32 << 20, 64 << 20)


def cpu_name() -> str:
    """The processor's model name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Instruction-set flags of the first core, as Linux names them (empty elsewhere)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Memory that new work may take without pushing other work out, in bytes; all of it where that is unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return memory_bytes()


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs here, by nvidia-smi (empty without one)."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def describe_device() -> str:
    """One line that says where a step ran."""
    gpus = gpu_names()
    return f"{cpu_name()}, {num_cores()} cores" + (f"; {', '.join(gpus)}" if gpus else "")


def release_memory() -> None:
    """Give memory that is no longer used back to the system, so that one step does not carry the weight of the last."""
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Give memory that was freed already back to the system: cheap, but nothing is searched for what could be freed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, the C library keeps what is freed, up to pieces of 1 GiB, for what comes next; afterwards it gives it back.

    The tensors of a training step come and go in the same sizes; by default the large ones go back to the system each time,
    and the pages of the next ones are zeroed anew (a tenth of a step of full fine-tuning, docs/log.md).
    """
    _set_malloc(1 << 30, (1 << 31) - 1)
    try:
        yield
    finally:
        _set_malloc(*_USUAL_THRESHOLDS)
        trim_memory()


def _set_malloc(mmap_threshold: int, trim_threshold: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, mmap_threshold)
        library.mallopt(_TRIM_THRESHOLD, trim_threshold)


def reset_peak_memory() -> None:
    """Start a new peak-memory measurement, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process since the last reset (since its start where that is unknown)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def resident_memory_bytes() -> int:
    """Resident memory of this process now; its peak where only that is known."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory_bytes()


def git_commit(folder: Path) -> str:
    """The commit checked out around `folder`, with a + if files differ from it; empty outside a repository."""
    if not shutil.which("git"):
        return ""
    git = ["git", "-C", str(folder)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode != 0:
        return ""
    dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
