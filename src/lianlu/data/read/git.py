"""A git repository without a working tree (`.git`, or a bare one): the files of its HEAD, read through the `git` program.

Nothing is checked out: blobs are streamed from the object store, so that no name can lead anywhere. git runs
no hooks, reads no configuration but the repository's own, and may not use the network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from lianlu.core.errors import MissingExtraError
from lianlu.data.licences.folders import licence_of_folder, tells_licence
from lianlu.data.read.raw import CONTAINERS, REPOSITORY, Raw, kind_of, language_of, printable, rejected
from lianlu.data.read.repository import Repository
from lianlu.data.rules.thresholds import Verdict

_OPTIONS = ("--no-pager", "--no-replace-objects", "-c", "core.fsmonitor=false")
_ADDRESS = re.compile(r"(?:https?|ssh|git)://(?:[^/@\s]*@)?([\w.-]+\.\w+)(?::\d+)?/(\S+)|git@([\w.-]+):(\S+)")
_COMMITTER = re.compile(rb"^committer .*> (\d{1,11}) [+-]\d{4}$", re.MULTILINE)
MAX_BYTES = 1 << 24
"""Of a commit or a licence file no more is held."""
_LINK, _SUBMODULE = "120000", "160000"


@dataclass(frozen=True)
class _Entry:
    mode: str
    sha: str
    num_bytes: int
    path: str


def is_repository(folder: Path) -> bool:
    """Whether a folder is a git directory itself: `.git`, or a bare repository."""
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


def has_git(folder: Path) -> bool:
    """Whether a folder is a working tree: it holds a git directory, or the file that points to one elsewhere."""
    return (folder / ".git").is_file() or is_repository(folder / ".git")


def name_of(folder: Path) -> str:
    """What a git directory's repository is called: by its folder."""
    path = folder.resolve()
    return printable(path.parent.name if path.name == ".git" else path.name.removesuffix(".git"))


def listed(folder: Path, path: str) -> Raw:
    """The repository as one thing to read; its size is that of its packs."""
    size = sum(pack.stat().st_size for pack in (folder / "objects" / "pack").glob("*.pack"))
    return Raw(path, REPOSITORY, size, path=path, file=str(folder))


def files(raw: Raw, max_bytes: int) -> Iterator[Raw]:
    """The files at HEAD in git's order, hidden ones left out. Raises: MissingExtraError without git."""
    folder = Path(raw.file)
    try:
        entries = [entry for entry in _entries(folder) if not any(part.startswith(".") for part in entry.path.split("/"))]
    except (subprocess.CalledProcessError, ValueError) as error:
        reason = _reason(error).replace(str(folder), raw.path)
        yield rejected(raw, raw.id, Verdict("read.damaged", reason, "a git repository with a HEAD"))
        return
    if not entries:
        yield rejected(raw, raw.id, Verdict("read.empty", 0, 1))
    with _Objects(folder) as blobs:
        repository = Repository(name_of(folder), url=_address(folder), licences=_licences(entries, blobs))
        repository.commit, repository.date = _head(blobs)
        for entry in entries:
            yield _file(raw, entry, repository, blobs, max_bytes)


def _file(raw: Raw, entry: _Entry, repository: Repository, blobs: _Objects, max_bytes: int) -> Raw:
    name = f"{raw.path}/{entry.path}"
    if verdict := _hopeless(entry, max_bytes):
        return rejected(raw, name, verdict, entry.num_bytes)
    _, content = blobs.read(entry.sha, max_bytes)
    if content is None:
        return rejected(raw, name, Verdict("read.damaged", "its object is missing or damaged", "a whole repository"))
    if len(content) > max_bytes:
        return rejected(raw, name, Verdict("read.max_bytes", f"over {max_bytes}", max_bytes))
    document = repository.document(name, entry.path)
    return Raw(
        name,
        kind_of(entry.path),
        len(content),
        raw.path,
        "",
        language_of(entry.path),
        document.license,
        document,
        content=content,
    )


def _hopeless(entry: _Entry, max_bytes: int) -> Verdict | None:
    if entry.mode in (_LINK, _SUBMODULE):
        return Verdict("read.not_a_file", "link" if entry.mode == _LINK else "submodule", "a regular file")
    if entry.num_bytes > max_bytes:
        return Verdict("read.max_bytes", entry.num_bytes, max_bytes)
    if kind_of(entry.path) in CONTAINERS:
        return Verdict("read.nested", kind_of(entry.path), "a file by itself: take it out first")
    return None


def _head(objects: _Objects) -> tuple[str, str]:
    """Hash and date (ISO 8601, UTC) of the commit; `git log` is not asked, since its settings can name programs to run."""
    sha, commit = objects.read("HEAD")
    told = _COMMITTER.search(commit or b"")
    return sha, datetime.fromtimestamp(int(told[1]), UTC).isoformat() if told else ""


def _licences(entries: list[_Entry], blobs: _Objects) -> dict[str, str]:
    """The licence of each folder whose files tell one."""
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        path = PurePosixPath(entry.path)
        if tells_licence(path.name) and entry.mode not in (_LINK, _SUBMODULE) and entry.num_bytes <= MAX_BYTES:
            found.setdefault(str(path.parent), {})[path.name] = (blobs.read(entry.sha)[1] or b"").decode("utf-8", "replace")
    return {folder: licence_of_folder(texts) for folder, texts in found.items()}


def _entries(folder: Path) -> Iterator[_Entry]:
    """The files at HEAD. Their sizes are 0 where one of them cannot be had, which git takes for the end."""
    listing = ("ls-tree", "-r", "-z", "--full-tree")
    try:
        told_all = _run(folder, *listing, "-l", "HEAD")
    except subprocess.CalledProcessError:
        told_all = _run(folder, *listing, "HEAD")
    for line in told_all.split(b"\0"):
        if line:
            told, _, path = line.partition(b"\t")
            mode, _, sha, *size = told.decode().split()
            yield _Entry(mode, sha, int(size[0]) if size and size[0].isdigit() else 0, path.decode("utf-8", "replace"))


def _address(folder: Path) -> str:
    """Where the repository came from, without names and passwords; empty if that is a place on this machine."""
    try:
        told = _ADDRESS.match(_run(folder, "config", "--get", "remote.origin.url").decode("utf-8", "replace").strip())
    except subprocess.CalledProcessError:
        return ""
    return f"https://{told[1] or told[3]}/{(told[2] or told[4]).removesuffix('.git')}" if told else ""


class _Objects:
    """Contents out of the object store, one after another over a pipe; git ends at a damaged one, and another is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> tuple[str, bytes | None]:
        """The hash of an object and its content, of which no more is held than shows that it is too long.

        The content is None if it is not there or damaged.
        """
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(name.encode() + b"\n")
            process.stdin.flush()
            told = process.stdout.readline().decode().split()
            if told[1:] == ["missing"]:
                return "", None
            left = int(told[2]) + 1
            content = process.stdout.read(min(left, max_bytes + 2))
        except (BrokenPipeError, IndexError, ValueError):
            left, content = 1, b""
        if len(content) < left:
            self._end()
        return (told[0], content[:-1]) if len(content) == min(left, max_bytes + 2) else ("", None)

    def _start(self) -> subprocess.Popen[bytes]:
        command = _command(self._folder, "cat-file", "--batch")
        return subprocess.Popen(
            command, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.kill()
        process.wait()


def _run(folder: Path, *arguments: str) -> bytes:
    command = _command(folder, *arguments)
    return subprocess.run(command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


def _command(folder: Path, *arguments: str) -> list[str]:
    program = shutil.which("git")
    if program is None:
        hint = "install git, or unpack the repository's files into a folder"
        raise MissingExtraError(f"reading the repository {folder} needs the program git", hint=hint)
    return [program, *_OPTIONS, f"--git-dir={folder}", *arguments]


def _environment() -> dict[str, str]:
    """The environment without git's own settings."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    return {**own, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **quiet}


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr.decode("utf-8", "replace").strip().splitlines()
        return said[-1][:200] if said else f"git ended with {error.returncode}"
    return str(error)
