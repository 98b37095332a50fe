"""`source = "python"`: real text that every machine has.

The standard library's sources, a file a document (domain code); the docstrings in them, a class or the functions of a
module a document (domain docs); the long descriptions in the metadata of installed packages (domain docs). Left out: test
suites, tools with sources of another age (idlelib, lib2to3), and tables that a program wrote.
"""

from __future__ import annotations

import email
import email.policy
import os
import sysconfig
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from lianlu.data.docstrings import Symbol, symbols
from lianlu.data.read.sources import METADATA, MODULE, Listing, Raw
from lianlu.formats.documents import Document

STANDARD_LICENSE = "PSF-2.0"
LEFT_OUT = {
    "test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "turtledemo", "pydoc_data",
    "encodings", "__phello__", "ensurepip",
}  # fmt: skip
_GENERATED = ("_sysconfigdata", "sitecustomize")
_OWN_PREFIX = "lianlu-"


def standard_library() -> Path:
    """The folder of the standard library's sources."""
    return Path(sysconfig.get_path("stdlib"))


def module_files() -> list[Path]:
    """The standard library's sources that are read, sorted."""
    root = standard_library()
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in LEFT_OUT and not name.startswith("config-")]
        found.extend(Path(folder, name) for name in files if name.endswith(".py") and not name.startswith(_GENERATED))
    return sorted(path for path in found if path.is_file())


def metadata_files() -> list[Path]:
    """The METADATA of each package installed in this environment, sorted by name; lianlu's own is left out."""
    folders = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    found = {path.parent.name.lower(): path for folder in sorted(folders) for path in folder.glob("*.dist-info/METADATA")}
    return [found[name] for name in sorted(found) if not name.startswith(_OWN_PREFIX)]


def python_files() -> list[Path]:
    """Every file that `source = "python"` reads, sorted: their contents are what an artifact's key depends on."""
    return sorted({*module_files(), *metadata_files()})


def list_python() -> Listing:
    """The files of the source `python`, to be read by workers."""
    root = standard_library()
    raws = []
    for path in module_files():
        name = path.relative_to(root).as_posix()
        size = path.stat().st_size
        raws.append(Raw(name, MODULE, size, name, str(path), "python", STANDARD_LICENSE))
    for path in metadata_files():
        name = path.parent.name.removesuffix(".dist-info")
        raws.append(Raw(name, METADATA, path.stat().st_size, f"{path.parent.name}/METADATA", str(path)))
    return Listing.of(raws)


def module_name(path: str) -> str:
    """`json/decoder.py` -> `json.decoder`, `json/__init__.py` -> `json`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def module_documents(raw: Raw, text: str) -> Iterator[Document]:
    """The source itself, then its docstrings as Markdown: one document for each class, one for module and functions."""
    yield Document(raw.path, text, "stdlib", "code", "python", license=raw.license, path=raw.path)
    module = module_name(raw.path)
    found = symbols(text, module)
    plain = [symbol for symbol in found if symbol.kind in ("module", "function")]
    if plain:
        yield _docs(raw, module, plain)
    classes = (symbol for symbol in found if symbol.kind in ("class", "method"))
    for name, group in groupby(classes, key=lambda symbol: symbol.name.split(".")[0]):
        yield _docs(raw, f"{module}.{name}", list(group))


def _docs(raw: Raw, name: str, group: list[Symbol]) -> Document:
    blocks = [f"# {name}"]
    for symbol in group:
        heading = "" if symbol.kind == "module" else f"## {symbol.module}.{symbol.signature}\n\n"
        blocks.append(heading + symbol.doc)
    return Document(f"doc:{name}", "\n\n".join(blocks), "docstrings", "docs", license=raw.license, path=raw.path)


def package_document(raw: Raw, text: str) -> Document:
    """The long description of a package, with licence and home page where its metadata name them."""
    fields = email.message_from_string(text, policy=email.policy.compat32)
    body = fields.get_payload()
    description = body if isinstance(body, str) and body.strip() else str(fields.get("Description", ""))
    home = fields.get("Home-page") or next((line.partition(",")[2].strip() for line in fields.get_all("Project-URL", [])), "")
    return Document(
        f"readme:{fields.get('Name', raw.id)}", description, "packages", "docs", url=home, license=_license(fields), path=raw.path
    )


def _license(fields: email.message.Message) -> str:
    """An SPDX expression, a short licence field, or the last word of a licence classifier."""
    stated = str(fields.get("License-Expression") or fields.get("License") or "").strip()
    if stated and len(stated) <= 60 and "\n" not in stated:
        return stated
    classified = [line.rpartition(" :: ")[2] for line in fields.get_all("Classifier", []) if line.startswith("License")]
    return ", ".join(classified)
