"""The files of one repository by path, name and folder: where resolution looks things up."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence


def folder_of(path: str) -> str:
    """The folder of a path, empty at the root."""
    return posixpath.dirname(path)


def joined(folder: str, name: str) -> str:
    """A path from a folder, with `..` gone; it may leave the repository, and then is in no tree."""
    return posixpath.normpath(posixpath.join(folder, name)) if name else folder


def ancestors(folder: str) -> list[str]:
    """The folder itself, then those above it, the root (empty) last."""
    found = [folder] if folder else []
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        found.append(folder)
    return [*found, ""]


class Tree:
    """Paths relative to the repository, with `/` between their parts."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = sorted(set(paths))
        self._known = frozenset(self.paths)
        self.files_in: defaultdict[str, list[str]] = defaultdict(list)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        self._folders: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            self.files_in[folder_of(path)].append(path)
            self._by_name[posixpath.basename(path)].append(path)
        for folder in sorted({above for path in self.paths for above in ancestors(folder_of(path))}):
            self._folders[posixpath.basename(folder)].append(folder)

    def __contains__(self, path: str) -> bool:
        return path in self._known

    def first(self, candidates: Iterable[str]) -> list[str]:
        """The first candidate that exists, or nothing."""
        return next(([path] for path in candidates if path in self._known), [])

    def ending(self, suffix: str, near: str) -> list[str]:
        """All files whose path ends with these parts; those that share most folders with `near` first, then the shortest."""
        return _nearest(self._by_name.get(posixpath.basename(suffix), ()), suffix, near)

    def folders_ending(self, suffix: str, near: str) -> list[str]:
        """The same for folders."""
        return _nearest(self._folders.get(posixpath.basename(suffix), ()), suffix, near)


def _nearest(paths: Sequence[str], suffix: str, near: str) -> list[str]:
    own = near.split("/")

    def rank(path: str) -> tuple[int, int, str]:
        parts = path.split("/")
        shared = next((i for i, (a, b) in enumerate(zip(parts, own, strict=False)) if a != b), min(len(parts), len(own)))
        return -shared, len(parts), path

    return sorted((path for path in paths if path == suffix or path.endswith("/" + suffix)), key=rank)
