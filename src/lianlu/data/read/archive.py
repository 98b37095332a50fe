"""Archives (.zip, .tar, and .tar packed with gzip, Zstandard, bzip2 or xz): the files in them, one by one.

Nothing is written to disk, so no name can lead out of a folder; names that try, links and devices are rejections. A member
is unpacked up to the limit for documents and no further, archives inside archives are not opened, and an archive that
unpacks to far more than its size is left as soon as that shows. A truncated or damaged tar gives the members before the break
and says that it broke off, also where its library takes damage for the end; a zip keeps its list of members at the end, so that
a truncated one gives nothing.

The licence files are found first, in a walk of their own, because members that need them may stand before them.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

import zstandard

from lianlu.data.licences.folders import is_licence_file, licence_of_folder, tells_licence
from lianlu.data.licences.texts import MAX_BYTES
from lianlu.data.read.raw import CODE, CONTAINERS, DOMAINS, Raw, kind_of, language_of, printable, rejected
from lianlu.data.read.repository import Repository
from lianlu.data.rules.thresholds import Verdict
from lianlu.formats import jsonl
from lianlu.formats.documents import Document
from lianlu.formats.gzip_members import GzipMembers

MAX_RATIO, FREE_BYTES = 200, 1 << 30
"""Unpacked bytes for each packed one, counted once this much has been unpacked: text packs to a fifth, a bomb to a thousandth."""
MAX_HEADER_BYTES = 1 << 20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, zlib.error, lzma.LZMAError,
           zstandard.ZstdError, struct.error, NotImplementedError, RuntimeError, ValueError, OverflowError)  # fmt: skip
_SUFFIX = re.compile(r"\.(?:zip|tgz|tar(?:\.\w+)?)$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass
class _Member:
    """One entry: what its header says, and how to read it while it is the current one."""

    path: str
    num_bytes: int
    is_file: bool
    is_folder: bool
    header: Any
    date: str = ""


@dataclass
class _Survey:
    """What the first walk finds: the one folder that holds everything, if there is one, licences by folder, and the commit."""

    tops: set[str] = field(default_factory=set)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    is_repository: bool = False
    commit: str = ""

    @property
    def top(self) -> str:
        """The folder above all members, with its slash, or empty."""
        only = next(iter(self.tops)) if len(self.tops) == 1 else ""
        return only if only.endswith("/") else ""


def members(raw: Raw, max_bytes: int) -> Iterator[Raw]:
    """The files of one archive, in its order; hidden ones are left out, as they are in folders."""
    count = 0
    repository = None
    try:
        survey = _survey(raw)
        if survey.is_repository:
            found = {_inside(folder, survey.top): licence_of_folder(texts) for folder, texts in survey.texts.items()}
            repository = Repository(_SUFFIX.sub("", PurePosixPath(raw.path).name), survey.top, found, commit=survey.commit)
        with _opened(raw) as archive:
            for member in archive:
                if not _is_shown(member):
                    continue
                count += 1
                yield _raw(raw, archive, member, repository, max_bytes)
    except _DAMAGE as error:
        count += 1
        reason = jsonl.damage(error).replace(raw.file, raw.path)
        yield rejected(raw, f"{raw.path}#{count}", Verdict("read.damaged", reason, "a whole archive"))
    if not count:
        yield rejected(raw, raw.id, Verdict("read.empty", 0, 1))


def _inside(folder: str, top: str) -> str:
    return str(PurePosixPath((folder + "/").removeprefix(top) or "."))


def _is_shown(member: _Member) -> bool:
    return not member.is_folder and not any(part.startswith(".") and part.strip(".") for part in member.path.split("/"))


def _survey(raw: Raw) -> _Survey:
    survey = _Survey()
    with contextlib.suppress(*_DAMAGE), _opened(raw) as archive:
        for member in archive:
            path = PurePosixPath(member.path)
            if len(survey.tops) < 2 and path.parts:
                survey.tops.add(path.parts[0] + ("/" if member.is_folder or len(path.parts) > 1 else ""))
            survey.is_repository = survey.is_repository or kind_of(path.name) == CODE
            if member.is_file and tells_licence(path.name) and member.num_bytes <= MAX_BYTES:
                text = archive.read(member, MAX_BYTES).decode("utf-8", "replace")
                survey.texts.setdefault(str(path.parent), {})[path.name] = text
                survey.is_repository = survey.is_repository or is_licence_file(path.name)
        survey.commit = archive.comment if _SHA.fullmatch(archive.comment) else ""
    return survey


def _raw(raw: Raw, archive: _Archive, member: _Member, repository: Repository | None, max_bytes: int) -> Raw:
    path = printable(member.path)
    name = f"{raw.path}/{path}"
    if verdict := _hopeless(member, path, max_bytes):
        return rejected(raw, name, verdict, member.num_bytes)
    try:
        content = archive.read(member, max_bytes + 1)
    except _DAMAGE as error:
        if archive.is_stream or isinstance(error, _BombError):
            raise
        reason = jsonl.damage(error) if isinstance(error, EOFError) else str(error)[:200]
        return rejected(raw, name, Verdict("read.damaged", reason, "a member that can be unpacked"), member.num_bytes)
    if len(content) > max_bytes:
        return rejected(raw, name, Verdict("read.max_bytes", f"over {max_bytes}", max_bytes), len(content))
    document = repository.document(name, path) if repository else Document(name, "", domain=DOMAINS[kind_of(path)], path=name)
    document.date = member.date
    return Raw(name, kind_of(path), len(content), raw.path, "", language_of(path), document.license, document, content=content)


def _hopeless(member: _Member, path: str, max_bytes: int) -> Verdict | None:
    if path.startswith(("/", "\\")) or _DRIVE.match(path) or ".." in re.split(r"[/\\]", path):
        return Verdict("read.unsafe_name", path[:200], "a name inside the archive")
    if not member.is_file:
        return Verdict("read.not_a_file", "link or device", "a regular file")
    if member.num_bytes > max_bytes:
        return Verdict("read.max_bytes", member.num_bytes, max_bytes)
    if kind_of(path) in CONTAINERS:
        return Verdict("read.nested", kind_of(path), "a file by itself: unpack the archive first")
    return None


class _BombError(OSError):
    """An archive that unpacks to more than any honest one."""


class _Archive:
    """A walk through an archive that counts what it unpacks. Subclasses say where members come from."""

    is_stream = False
    comment = ""

    def __init__(self, packed_bytes: int) -> None:
        self._allowed = max(FREE_BYTES, packed_bytes * MAX_RATIO)

    def spend(self, num_bytes: int) -> None:
        """Count unpacked bytes. Raises: _BombError once an archive has unpacked to more than any honest one."""
        self._allowed -= num_bytes
        if self._allowed < 0:
            raise _BombError(f"unpacks to more than {MAX_RATIO} times its size")

    def __iter__(self) -> Iterator[_Member]:
        raise NotImplementedError

    def read(self, member: _Member, max_bytes: int) -> bytes:
        """At most so many bytes of the current member."""
        raise NotImplementedError


class _Zip(_Archive):
    def __init__(self, file: zipfile.ZipFile, packed_bytes: int) -> None:
        super().__init__(packed_bytes)
        self._file = file
        self.comment = file.comment.decode("ascii", "replace")

    def __iter__(self) -> Iterator[_Member]:
        for info in self._file.infolist():
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            year, month, day, hour, minute, second = info.date_time
            date = f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}" if year > 1980 else ""
            yield _Member(info.filename, info.file_size, not is_link and not info.is_dir(), info.is_dir(), info, date)

    def read(self, member: _Member, max_bytes: int) -> bytes:
        with self._file.open(member.header) as file:
            content = file.read(max_bytes)
        self.spend(len(content))
        return content


class _Header(tarfile.TarInfo):
    """A member's header. One that says that its long name or its further fields take megabytes would be read into memory."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Header:
        """The next header. Raises: ReadError where the library would take a bad header, or none, for the end of the archive."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it has no end") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        found = super().frombuf(buf, encoding, errors)
        if found.size > MAX_HEADER_BYTES and found.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE):
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found


class _Tar(_Archive):
    is_stream = True

    def __init__(self, file: tarfile.TarFile, stream: IO[bytes], packed_bytes: int) -> None:
        super().__init__(packed_bytes)
        self._file, self._stream = file, stream

    def __iter__(self) -> Iterator[_Member]:
        for info in self._file:
            self._file.members = []  # type: ignore[attr-defined]  # or every header read so far would stay in memory
            self.comment = str(self._file.pax_headers.get("comment", ""))
            self.spend(info.size)
            date = datetime.fromtimestamp(info.mtime, UTC).isoformat() if 0 < info.mtime < 1 << 33 else ""
            yield _Member(info.name, info.size, info.isreg(), info.isdir(), info, date)
        while rest := self._stream.read(1 << 20):
            self.spend(len(rest))
            if rest.strip(b"\0"):
                raise tarfile.ReadError("more after its end")

    def read(self, member: _Member, max_bytes: int) -> bytes:
        file = self._file.extractfile(member.header)
        if file is None:
            return b""
        content = file.read(max_bytes)
        if len(content) < min(max_bytes, member.num_bytes):
            raise EOFError
        return content


@contextlib.contextmanager
def _opened(raw: Raw) -> Iterator[_Archive]:
    path = Path(raw.file)
    with contextlib.ExitStack() as stack:
        if path.name.lower().endswith(".zip"):
            yield _Zip(stack.enter_context(zipfile.ZipFile(path)), raw.num_bytes)
        else:
            stream = stack.enter_context(_unpacked(path))
            # read in blocks as small as those of the format: of a block in which its packing breaks off nothing is given
            file = stack.enter_context(tarfile.open(fileobj=stream, mode="r|", bufsize=tarfile.BLOCKSIZE, tarinfo=_Header))
            yield _Tar(file, stream, raw.num_bytes)


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    name = path.name.lower()
    if name.endswith((".bz2", ".xz")):
        with bz2.open(path) if name.endswith(".bz2") else lzma.open(path) as file:
            yield file
    elif name.endswith((".tgz", ".gz")):
        with open(path, "rb") as raw:
            yield io.BufferedReader(GzipMembers(raw), 1 << 16)
    else:
        with jsonl.open_bytes(path) as file:
            yield file
