"""Domains that nothing is taken from: a list that the user names, looked up for the address of each document.

One domain a line, plain, gzip, or the member `domains` of a tar archive; `#` begins a comment; a domain stands for all below
it. The word `datatrove` stands for the list inside an installed datatrove, which is read where it is and never copied. Hashes
of 64 bits are kept in place of names, 8 bytes a domain (InternLM2, arXiv 2403.17297, section 3.1.1, used 13 million). No list,
no rule.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import xxhash

from lianlu.core.errors import DataError, MissingExtraError

DATATROVE = "datatrove"
MEMBER = "domains"
_COMMENT = re.compile(rb"#[^\n]*")
_hash = xxhash.xxh3_64_intdigest


class BlockedDomains:
    """A set of domains."""

    def __init__(self, names: Iterable[bytes]) -> None:
        bare = (_ascii(name.strip(b".")) for name in names)
        ordered = np.sort(np.fromiter(map(_hash, filter(None, bare)), np.uint64))
        is_new = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
        self._hashes: npt.NDArray[np.uint64] = ordered[is_new]  # np.unique hashes instead, and takes ten times as long

    def __len__(self) -> int:
        return len(self._hashes)

    def holds(self, url: str) -> bool:
        """Whether the host of an address, or a domain above it, is in the set; an address without a host is not."""
        names = list(_above(host(url)))
        if not names or not len(self._hashes):
            return False
        wanted = np.array([_hash(name.encode()) for name in names], dtype=np.uint64)
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return bool((self._hashes[places] == wanted).any())


def signals(url: str, blocked: BlockedDomains) -> Iterator[tuple[str, float]]:
    """What the rule looks at: 1 if the address is blocked, else 0."""
    yield "max_blocked_domains", float(blocked.holds(url))


def host(url: str) -> str:
    """The host in an address, lower case and in its ASCII form; empty if there is none."""
    try:
        name = urlsplit(url if "//" in url else f"//{url}").hostname or ""
        return name.strip(".").encode("idna").decode() if not name.isascii() else name.strip(".")
    except (ValueError, UnicodeError):
        return ""


def load(source: str) -> BlockedDomains:
    """Read a list. Raises: DataError if it is missing, damaged or empty, MissingExtraError if datatrove is not installed."""
    path = _in_datatrove() if source == DATATROVE else Path(source)
    try:
        content = _content(path)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"cannot read the list of domains {path}: {error}", hint="give a text file, one domain a line") from error
    found = BlockedDomains(_COMMENT.sub(b"", content).lower().split())
    if not len(found):
        raise DataError(f"there are no domains in {path}", hint="give a text file, one domain a line")
    return found


def _content(path: Path) -> bytes:
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(path) as archive:
            members = [item for item in archive if item.isfile() and Path(item.name).name == MEMBER]
            return b"\n".join(file.read() for item in members if (file := archive.extractfile(item)))
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def _in_datatrove() -> Path:
    found = importlib.util.find_spec(DATATROVE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("datatrove is not installed", hint="pip install datatrove, or give a text file of domains")
    lists = sorted(Path(found.submodule_search_locations[0], "assets").glob("url_filterblacklists*.tar.gz"))
    if not lists:
        raise DataError("this datatrove has no list of domains", hint="give a text file, one domain a line")
    return lists[-1]


def _ascii(name: bytes) -> bytes:
    """The ASCII form of a name; empty if it has none."""
    return name if name.isascii() else host(name.decode("utf-8", "replace")).encode()


def _above(name: str) -> Iterator[str]:
    """A host and the domains above it, but for the last part alone."""
    parts = name.split(".")
    for start in range(max(len(parts) - 1, 1)):
        if parts[start]:
            yield ".".join(parts[start:])
