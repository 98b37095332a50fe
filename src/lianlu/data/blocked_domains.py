"""Domains that nothing is taken from: a list that the user names, looked up for the address of each document.

One domain a line, plain, gzip, or the member `domains` of a tar archive; `#` begins a comment; a domain stands for all below
it. The word `datatrove` stands for the list inside an installed datatrove, which is read where it is and never copied. Hashes
of 64 bits are kept in place of names, 8 bytes a domain (InternLM2, arXiv 2403.17297, section 3.1.1, used 13 million). No list,
no rule.
"""

from __future__ import annotations

import gzip
import importlib.util
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


class BlockedDomains:
    """A set of domains."""

    def __init__(self, names: Iterable[str]) -> None:
        hashes = np.fromiter((_hash(name) for name in map(_entry, names) if name), np.uint64)
        self._hashes: npt.NDArray[np.uint64] = np.unique(hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def holds(self, url: str) -> bool:
        """Whether the host of an address, or a domain above it, is in the set; an address without a host is not."""
        names = list(_above(host(url)))
        if not names or not len(self._hashes):
            return False
        wanted = np.array([_hash(name) for name in names], dtype=np.uint64)
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
        found = BlockedDomains(_lines(path))
    except (OSError, EOFError, zlib.error, tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of domains {path}: {error}", hint="give a text file, one domain a line") from error
    if not len(found):
        raise DataError(f"there are no domains in {path}", hint="give a text file, one domain a line")
    return found


def _lines(path: Path) -> Iterator[str]:
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and Path(member.name).name == MEMBER and (found := archive.extractfile(member)):
                    yield from (line.decode() for line in found)
        return
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        yield from file


def _in_datatrove() -> Path:
    found = importlib.util.find_spec(DATATROVE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("datatrove is not installed", hint="pip install datatrove, or give a text file of domains")
    lists = sorted(Path(found.submodule_search_locations[0], "assets").glob("url_filterblacklists*.tar.gz"))
    if not lists:
        raise DataError("this datatrove has no list of domains", hint="give a text file, one domain a line")
    return lists[-1]


def _entry(line: str) -> str:
    return line.partition("#")[0].strip().strip(".").lower()


def _above(name: str) -> Iterator[str]:
    """A host and the domains above it, but for the last part alone."""
    parts = name.split(".")
    for start in range(max(len(parts) - 1, 1)):
        if parts[start]:
            yield ".".join(parts[start:])


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())
