"""A repository's files as Markdown documents: dependencies first, each file under its path, in a fence with its language.

The long documents of InternLM2 (arXiv 2403.17297, section 3.1.2): files of one repository that were kept, regrouped and
sorted by their imports (`order`), so that a model sees a definition before its use in another file. A document that grows
too long is continued in another one; files are never cut. A file longer than the limit stands alone. Where a file came from
stays on record in the document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lianlu.core.errors import DataError
from lianlu.data.code.fences import fenced
from lianlu.data.code.graph import import_graph
from lianlu.data.code.order import dependency_order, with_docs
from lianlu.data.code.source_file import path_of
from lianlu.data.licences.expressions import all_of
from lianlu.data.read.raw import KINDS, language_of
from lianlu.formats.documents import Document

REPOSITORY = "repo"
"""Key of `Document.meta` that names the repository a file is from."""
MAX_BYTES = 1_000_000
NOTEBOOK = "jupyter"
FROM = ("license", "url", "date")
"""What `meta["files"]` says of a file besides its path, where it is known and not that of the whole document."""
_PLAIN = (".md", ".markdown", ".txt", ".pdf", ".ipynb", "")


def concatenated(name: str, files: Sequence[Document], max_bytes: int = MAX_BYTES) -> list[Document]:
    """The kept files of one repository as few documents of at most `max_bytes` of UTF-8 each, in order of their imports.

    `meta["parents"]` has the ids of the files in a document, `meta["files"]` where each is from, `meta["weight"]` the mean of
    theirs by size where they have one. Raises: DataError if two files have one path, or a weight is no number.
    """
    by_path = {path_of(file): file for file in files}
    if len(by_path) < len(files):
        twice = next(path for path in by_path if sum(path_of(file) == path for file in files) > 1)
        raise DataError(
            f"{name} holds {twice} twice", hint="set the path of each document, or name repositories apart in meta.repo"
        )
    ordered = [by_path[path] for path in file_order(by_path)]
    parts = list(_parts(name, ordered, max_bytes))
    return [_joined(name, part, number if len(parts) > 1 else 0) for number, part in enumerate(parts, 1)]


def file_order(files: Mapping[str, Document]) -> list[str]:
    """The paths of a repository's files in the order in which they are to be read."""
    langs = {path: _language(file) for path, file in files.items()}
    graph = import_graph({path: file.text for path, file in files.items()}, langs)
    code = [path for path, lang in langs.items() if lang]
    return with_docs(dependency_order(code, graph.needs, graph.late), langs.keys() - set(code))


def _language(file: Document) -> str:
    """The programming language, empty for documentation."""
    told = language_of(path_of(file))
    return told or (file.lang if file.domain == "code" and _suffix(file) not in KINDS else "")


def _suffix(file: Document) -> str:
    name = path_of(file).rpartition("/")[2]
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""


def _block(file: Document) -> str:
    lang = _language(file)
    plain = lang in ("", NOTEBOOK) and (_suffix(file) in _PLAIN or file.domain == "web")
    body = file.text.strip("\n") if plain else fenced(file.text, lang or _suffix(file)[1:])
    return f"{_heading(path_of(file))}{body}\n"


def _heading(path: str) -> str:
    return f"## {path}\n\n"


def _title(name: str) -> str:
    return f"# {name}\n\n"


def _parts(name: str, files: Iterable[Document], max_bytes: int) -> Iterator[list[tuple[Document, str]]]:
    """Runs of files with their blocks, each run within the limit wherever its first file is."""
    part: list[tuple[Document, str]] = []
    start = size = len(_title(name).encode())
    for file in files:
        block = _block(file)
        more = len(block.encode()) + 1
        if part and size + more > max_bytes:
            yield part
            part, size = [], start
        part.append((file, block))
        size += more
    if part:
        yield part


def _joined(name: str, part: Sequence[tuple[Document, str]], number: int) -> Document:
    files = [file for file, _ in part]
    url = files[0].url if len({file.url for file in files}) == 1 else ""
    licence, date = all_of(file.license for file in files if file.license), max(file.date for file in files)
    whole = {"license": licence, "url": url, "date": date}
    meta: dict[str, Any] = {
        "parents": [file.id for file in files],
        "files": [_origin(file, whole) for file in files],
        REPOSITORY: name,
    }
    if any("weight" in file.meta for file in files):
        meta["weight"] = _mean_weight(part)
    return Document(
        id=f"{name}#{number}" if number else name,
        text=_title(name) + "\n".join(block for _, block in part),
        source=files[0].source,
        domain="code",
        lang="markdown",
        url=url,
        license=licence,
        date=date,
        meta=meta,
    )


def _origin(file: Document, whole: Mapping[str, str]) -> dict[str, str]:
    own = {name: getattr(file, name) for name in FROM}
    return {"path": path_of(file), **{name: value for name, value in own.items() if value and value != whole[name]}}


def _mean_weight(part: Sequence[tuple[Document, str]]) -> float:
    total = sum(_weight(file) * len(block) for file, block in part)
    return round(total / sum(len(block) for _, block in part), 4)


def _weight(file: Document) -> float:
    weight = file.meta.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise DataError(f"document {file.id} has weight {weight!r}", hint="meta.weight is a number from 0 on")
    return weight


def without_files(document: Document, places: Collection[int]) -> Document | None:
    """A joined document without the files at these places of its `meta["files"]`; licence, date and weight stay as they were.

    None if nothing would be left, it was not joined here, or its text does not tell for sure where these files begin and end:
    a heading that is there twice may be a line of another file.
    """
    files, parents = document.meta.get("files"), document.meta.get("parents")
    if not (isinstance(files, list) and isinstance(parents, list) and set(places) < set(range(len(files)))):
        return None
    text = document.text + "\n"  # every file now ends with an empty line
    starts = [_place(text, file) for file in files] + [len(text)]
    kept, last = "", 0
    for place in sorted(places):
        if not last <= starts[place] < starts[place + 1]:
            return None
        kept, last = kept + text[last : starts[place]], starts[place + 1]
    left = {key: [value for place, value in enumerate(document.meta[key]) if place not in places] for key in ("parents", "files")}
    return replace(document, text=(kept + text[last:])[:-1], meta={**document.meta, **left})


def _place(text: str, file: Any) -> int:
    """Where the only heading of a file begins; -1 if there is none or another one."""
    heading = "\n" + _heading(str(file["path"]) if isinstance(file, dict) and "path" in file else "")
    found = text.find(heading)
    return found + 1 if found >= 0 and text.find(heading, found + 1) < 0 else -1
