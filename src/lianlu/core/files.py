"""Files that are whole or absent: atomic writes, hashes, and errors that name the file.

Every write of lianlu goes through a temporary name in the same folder and a rename, so that a kill or a full disk
leaves the old file or none, never half of one. What a killed process left under such a name is known by its free lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lianlu.core.errors import ArtifactError

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space and run again; finished steps are kept",
    errno.EDQUOT: "your disk quota is used up: free some space and run again",
    errno.EFBIG: "files may not be that large here (ulimit -f, or the file system): allow larger ones and run again",
    errno.EACCES: "you may not write there: choose another folder with LIANLU_HOME",
    errno.EROFS: "the file system is read-only: choose another folder with LIANLU_HOME",
}
_NEARLY_FULL_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp", re.DOTALL)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError below into an ArtifactError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        number = errno.ENOSPC if _is_full(error, path) else error.errno or 0
        reason = error.strerror or (os.strerror(number) if number else str(error))
        hint = _HINTS.get(number, "check the path and the disk, then run again")
        raise ArtifactError(f"cannot write {path}: {reason}", hint=hint) from error


@contextlib.contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """The same for a block that reads as well: only a disk, a quota or a file that is full is taken for its fault."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not _is_full(error, path):
            raise
        with disk_errors(Path(error.filename or path)):
            raise


def _is_full(error: OSError, path: Path) -> bool:
    """Whether an error without a number (numpy's, when it could not write all) comes from a full disk."""
    folder = next((folder for folder in (path, *path.parents) if folder.is_dir()), None)
    return error.errno is None and folder is not None and shutil.disk_usage(folder).free < _NEARLY_FULL_BYTES


def reserve(path: Path, num_bytes: int) -> None:
    """Take the space for a file that is to be mapped and written: without it, a full disk kills the process that writes."""
    with open(path, "ab") as file:
        if num_bytes:
            os.posix_fallocate(file.fileno(), 0, num_bytes)


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, encoding=encoding) as file:
                with contextlib.suppress(OSError):  # some file systems have no locks: leftovers stay there
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)  # still locked, so that nobody takes it for a leftover
    finally:
        with contextlib.suppress(OSError):  # a folder that is a file has been told above
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files below `folder` whose writers are dead; a living one holds the lock of its file, which stays.

    Any process of any machine that shares the folder may be writing, as long as the file system shares its locks too.
    """
    for root, _, names in walk(folder):
        for path in (Path(root, name) for name in names if _TEMPORARY.fullmatch(name)):
            with contextlib.suppress(OSError), open(path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_write(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, sorted and indented, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, as hex; names of files may hold bytes that are no UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def walk(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk` from above, but however deep: each folder, the names of folders in it (those left are walked) and of the rest.

    Before Python 3.12 `os.walk` calls itself for each level, up to its limit of a thousand.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        root = waiting.pop()
        folders, names = list[str](), list[str]()
        try:
            with os.scandir(root) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else names).append(entry.name)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            continue
        yield root, folders, names
        below = (os.path.join(root, name) for name in reversed(folders))
        waiting += [path for path in below if not os.path.islink(path)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def files_below(folder: Path) -> list[Path]:
    """Every regular file below `folder`, in sorted order; hidden files and folders are left out."""
    found: list[Path] = []
    for root, folders, names in walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.extend(Path(root, name) for name in sorted(names) if not name.startswith("."))
    return [path for path in found if path.is_file()]


class DigestCache:
    """Content hashes remembered by (path, size, modification time), so that a second run need not read the bytes again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            self._known: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def file(self, path: Path) -> str:
        """SHA-256 of one file."""
        stat = path.stat()
        key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(key)
        if known is None or known[:2] != stamp:
            known = [*stamp, sha256_file(path)]
            self._known[key] = known
            self._changed = True
        return str(known[2])

    def tree(self, path: Path) -> str:
        """Digest of a file, or of a folder as the list of its relative names and contents.

        A file in a folder that cannot be read counts by the reason; a stage that needs it will say so.
        """
        if path.is_file():
            return self.file(path)
        return sha256_json([[str(item.relative_to(path)), self._file_or_reason(item)] for item in files_below(path)])

    def _file_or_reason(self, path: Path) -> str:
        try:
            return self.file(path)
        except OSError as error:
            return f"unreadable: {error.strerror}"

    def save(self) -> None:
        """Keep what was learned."""
        if self._changed:
            write_text(self._path, json.dumps(self._known))
            self._changed = False
