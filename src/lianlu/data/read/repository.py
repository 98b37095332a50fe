"""What all files of a code repository share: its name, its licence and, where git tells it, commit, date and address.

The licence of a file is that of the nearest folder above it with a licence file, so that what others wrote and a
repository holds keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lianlu.data.read import licenses
from lianlu.data.read.raw import DOMAINS, TEXT, kind_of, printable
from lianlu.formats.documents import Document


@dataclass
class Repository:
    """A repository, or the part of one that has a licence of its own.

    `prefix` is what stands before a path inside the repository where the whole source is named, `""` or `"some/folder/"`.
    """

    name: str
    prefix: str = ""
    licenses: dict[str, str] = field(default_factory=dict)
    url: str = ""
    date: str = ""
    commit: str = ""

    def document(self, name: str, path: str) -> Document:
        """What is known of a file before it is read: an id and its path in the repository, with an empty text."""
        own = path.removeprefix(self.prefix)
        meta = {"repo": self.name, **({"commit": self.commit} if self.commit else {})}
        domain = DOMAINS.get(kind_of(path), DOMAINS[TEXT])
        return Document(name, "", domain=domain, url=self.url, date=self.date, license=self.license_of(own), path=own, meta=meta)

    def license_of(self, path: str) -> str:
        """The SPDX name of the nearest licence file above a path in the repository; empty if there is none."""
        folders = (str(folder) for folder in PurePosixPath(path).parents)
        return next((self.licenses[folder] for folder in folders if folder in self.licenses), "")

    @classmethod
    def of_folder(
        cls, folder: Path, root: Path, files: Iterable[str], is_worktree: bool, above: Repository | None
    ) -> Repository | None:
        """The repository that a folder is or belongs to, if it is one."""
        found = [name for name in files if licenses.is_license_name(name)]
        if not found and not is_worktree:
            return above
        if above is None or is_worktree:
            place = printable(folder.relative_to(root).as_posix())
            above = cls(printable(folder.resolve().name), "" if place == "." else place + "/")
        if found:
            own = printable(folder.relative_to(root).as_posix()) + "/"
            above.licenses[str(PurePosixPath(own.removeprefix(above.prefix) or "."))] = licenses.of_files(
                {name: _text(folder / name) for name in found}
            )
        return above


def _text(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        return ""
    try:
        with open(path, "rb") as file:
            return file.read(licenses.MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
