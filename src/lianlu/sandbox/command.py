"""The bubblewrap command line: what the code in the sandbox can see and who it is.

It sees an empty root with /usr and the interpreter read-only, /proc of its own process namespace, five harmless devices,
and the work folder /tmp (a tmpfs of limited size); no home, no /etc, no network. Two ways to give up rights:

- An ordinary user: a user namespace, without capabilities, in which no further one can be made.
- Root: a user namespace would leave the real user id 0, which no process limit binds. So bubblewrap works without one and
  the interpreter switches to a user id that nobody has, a new one for every run (`sandbox.inside`). The interpreter may
  thereby lie below a folder that only root can enter. Nested user namespaces are closed by the system call filter.

Source: bwrap(1). Limits: needs bubblewrap 0.8 for `--disable-userns`, `--size` and `--perms`.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from lianlu.core.errors import MissingExtraError

NOBODY = 65534
# Above the ranges that systemd gives to containers, below 2**31.
FIRST_SPARE_UID, NUM_SPARE_UIDS = 0x7A000000, 1 << 20
SHARED_MEMORY_BYTES = 16 << 20
DEVICES = ("null", "zero", "full", "random", "urandom")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    # The same code prints sets in the same order every time.
    "PYTHONHASHSEED": "0",
    # Each further malloc arena would take 64 MiB of the address space that the memory limit counts.
    "MALLOC_ARENA_MAX": "2",
}


def spare_uid(uid_map: Path = Path("/proc/self/uid_map")) -> int | None:
    """The user id that root is to become, or None for an ordinary user (or a root that has no other id to go to)."""
    if os.geteuid() != 0:
        return None
    ranges = [tuple(map(int, line.split())) for line in uid_map.read_text(encoding="ascii").splitlines()]
    last_spare = FIRST_SPARE_UID + NUM_SPARE_UIDS - 1
    if any(first <= FIRST_SPARE_UID and last_spare < first + count for first, _, count in ranges):
        return FIRST_SPARE_UID + random.SystemRandom().randrange(NUM_SPARE_UIDS)
    return NOBODY if any(first <= NOBODY < first + count for first, _, count in ranges) else None


def interpreter() -> tuple[Path, Path]:
    """The base interpreter and its prefix, free of links. Raises: MissingExtraError if the prefix holds the home."""
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    prefix = Path(sys.base_prefix).resolve()
    own_home = os.path.expanduser("~")
    homes = [Path("/home"), Path("/root"), *([Path(own_home).resolve()] if os.path.isabs(own_home) else [])]
    if any(home.is_relative_to(prefix) for home in homes):
        hint = "use an interpreter that has a folder of its own"
        raise MissingExtraError(f"the sandbox would show {prefix}, where this Python lives, with a home below it", hint=hint)
    return python, prefix


def bwrap_command(bwrap: str, uid: int | None, file_bytes: int, filter_fd: int, info_fd: int) -> list[str]:
    """The arguments up to and without the program to run; `uid` is what `spare_uid` gave."""
    args = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    args += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if uid is None:
        args += ["--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    else:
        args += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    args += _files(file_bytes)
    for name, value in ENVIRONMENT.items():
        args += ["--setenv", name, value]
    return [*args, "--seccomp", str(filter_fd), "--info-fd", str(info_fd), "--chdir", "/tmp", "--"]


def _files(file_bytes: int) -> list[str]:
    # The work folder comes first: an interpreter below the real /tmp is then still seen.
    args = ["--perms", "1777", "--size", str(file_bytes), "--tmpfs", "/tmp", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        folder = Path("/", name)
        if folder.is_symlink():
            args += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            args += ["--ro-bind", str(folder), str(folder)]
    prefix = interpreter()[1]
    if not prefix.is_relative_to("/usr"):
        for folder in reversed(prefix.parents[:-1]):
            args += ["--perms", "0755", "--dir", str(folder)]
        args += ["--ro-bind", str(prefix), str(prefix)]
    args += ["--proc", "/proc", "--tmpfs", "/dev"]
    for device in DEVICES:
        args += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    args += ["--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]
    # The mounts below are not touched; without this the two small file systems could be filled up without a limit.
    return [*args, "--remount-ro", "/dev", "--remount-ro", "/"]
