"""Where documents come from: a folder, a file, or `python`; found and listed here, read later by the workers.

Files are listed in sorted order. Hidden files and folders are left out; a link to a folder is not followed (so there are
no loops) and noted as rejected, like everything else that cannot be read. Files that hold many documents (JSONL, Parquet,
WARC, archives, git repositories) are streamed one by one, in `read/`, a file for each format.

A folder with `.git` or a licence file in it is a code repository: its files, as they lie there, know its name and licence.
A bare repository or a `.git` folder is read at its HEAD.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lianlu.core.errors import DataError
from lianlu.core.files import walk
from lianlu.data.read import archive, git, records, warc
from lianlu.data.read.raw import (
    ARCHIVE,
    CODE,
    CONTAINERS,
    DOMAINS,
    HTML,
    MARKDOWN,
    METADATA,
    MODULE,
    PDF,
    RECORD,
    REPOSITORY,
    TEXT,
    WARC,
    Listing,
    Raw,
    kind_of,
    language_of,
    printable,
)  # fmt: skip
from lianlu.data.read.repository import Repository
from lianlu.data.rules.thresholds import Verdict

__all__ = [
    "CODE", "DOMAINS", "HTML", "MARKDOWN", "METADATA", "MODULE", "PDF", "RECORD", "TEXT",
    "Listing", "Raw", "expand", "language_of", "list_files",
]  # fmt: skip
READERS: dict[str, Callable[[Raw, int], Iterator[Raw]]] = {
    WARC: warc.pages, ARCHIVE: archive.members, REPOSITORY: git.files,
}  # fmt: skip


def list_files(source: Path) -> Listing:
    """Everything below a folder, or one file. Raises: DataError if there is nothing."""
    if not source.exists():
        raise DataError(f"there is no {source}", hint="check the path of source; `python` stands for Python's own sources")
    if not source.is_file() and not source.is_dir():
        raise DataError(f"{source} is neither a file nor a folder", hint="pipes and devices are not read: write to a file first")
    if source.is_file():
        return Listing.of([_file(source, source.name)])
    if git.is_repository(source):
        return Listing.of([git.listed(source, git.name_of(source))])
    listing = Listing.of(_Folder(source))
    if not listing.num_files:
        raise DataError(f"{source} is an empty folder", hint="put text, Markdown, HTML, PDF, JSONL or Parquet files there")
    return listing


@dataclass(frozen=True)
class _Folder:
    """Everything below a folder, walked anew each time."""

    root: Path

    def __iter__(self) -> Iterator[Raw]:
        return _walk(self.root)


def _walk(root: Path) -> Iterator[Raw]:
    unreadable: list[OSError] = []
    repositories: dict[str, Repository] = {}
    for folder, names, files in walk(root, unreadable.append):
        is_worktree = git.has_git(Path(folder))
        names[:] = sorted(name for name in names if not name.startswith("."))
        above = repositories.get(os.path.dirname(folder))
        own = Repository.of_folder(Path(folder), root, sorted(files), is_worktree, above)
        if own is not None:
            repositories[folder] = own
        yield from _folders(Path(folder), root, names)
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(folder, name)
                raw = _file(path, path.relative_to(root).as_posix())
                yield _told(raw, own) if own is not None and raw.kind not in CONTAINERS else raw
    for error in unreadable:
        yield _rejected(Path(error.filename), root, Verdict("read.unreadable", error.strerror or "", "a readable folder"))


def _folders(folder: Path, root: Path, names: list[str]) -> Iterator[Raw]:
    """What is not walked through: links, and bare repositories, which leave the list."""
    for name in list(names):
        path = folder / name
        if path.is_symlink():
            yield _rejected(path, root, Verdict("read.link_to_folder", "link", "a real folder"))
        elif git.is_repository(path):
            names.remove(name)
            yield git.listed(path, printable(path.relative_to(root).as_posix()))


def _told(raw: Raw, repository: Repository) -> Raw:
    document = repository.document(raw.id, raw.path)
    return replace(raw, document=document, license=document.license)


def _rejected(path: Path, root: Path, verdict: Verdict) -> Raw:
    name = printable(path.relative_to(root).as_posix())
    return Raw(name, TEXT, 0, path=name, verdict=verdict)


def _file(path: Path, name: str) -> Raw:
    name = printable(name)
    try:
        status = path.stat()
    except OSError as error:
        return Raw(name, TEXT, 0, path=name, verdict=Verdict("read.unreadable", error.strerror or "", "a readable file"))
    if not stat.S_ISREG(status.st_mode):
        kind = stat.filemode(status.st_mode)[0]
        return Raw(name, TEXT, 0, path=name, verdict=Verdict("read.not_a_file", kind, "a regular file"))
    return Raw(name, kind_of(name), status.st_size, path=name, file=str(path), lang=language_of(name))


def expand(raws: Iterable[Raw], text_fields: tuple[str, ...], max_bytes: int) -> Iterator[Raw]:
    """The same things with each file that holds many replaced by what it holds, one by one.

    Of anything above `max_bytes` no more than that is held in memory, and a rejection goes on in its place.
    """
    for raw in raws:
        if raw.verdict is not None or raw.kind not in CONTAINERS:
            yield raw
        elif raw.kind != REPOSITORY and (reason := _locked(raw)):
            yield replace(raw, kind=TEXT, verdict=Verdict("read.unreadable", reason, "a readable file"))
        elif raw.kind == RECORD:
            yield from records.read(raw, text_fields, max_bytes)
        else:
            yield from READERS[raw.kind](raw, max_bytes)


def _locked(raw: Raw) -> str:
    """Why a file cannot be opened, or empty."""
    try:
        open(raw.file, "rb").close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
