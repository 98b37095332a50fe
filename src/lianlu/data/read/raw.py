"""What there is to read: one raw thing after another, told by its name, on its way from a source to a worker.

A file is read by a worker. What lies inside a larger file (a page of a WARC, a member of an archive, a blob of a git
repository) brings its bytes along, since only one process walks through the larger file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lianlu.data.rules.thresholds import Verdict
from lianlu.formats import documents, jsonl

HTML, MARKDOWN, TEXT, CODE, RECORD, MODULE, METADATA = "html", "markdown", "text", "code", "record", "module", "metadata"
PDF, WARC, ARCHIVE, REPOSITORY = "pdf", "warc", "archive", "repository"
KINDS = {
    ".html": HTML, ".htm": HTML, ".xhtml": HTML, ".md": MARKDOWN, ".markdown": MARKDOWN, ".rst": MARKDOWN, ".txt": TEXT,
    ".pdf": PDF,
}  # fmt: skip
LANGUAGES = {
    ".py": "python", ".pyi": "python", ".pyw": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp",
    ".c++": "cpp", ".hh": "cpp", ".hpp": "cpp", ".hxx": "cpp", ".inl": "cpp", ".ipp": "cpp", ".cu": "cuda", ".cuh": "cuda",
    ".cs": "csharp", ".fs": "fsharp", ".vb": "visualbasic", ".go": "go", ".java": "java", ".js": "javascript",
    ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascript", ".ts": "typescript", ".mts": "typescript",
    ".cts": "typescript", ".tsx": "typescript", ".vue": "vue", ".svelte": "svelte", ".rs": "rust", ".rb": "ruby",
    ".rake": "ruby", ".gemspec": "ruby", ".php": "php", ".sh": "shell", ".bash": "shell", ".zsh": "shell", ".fish": "fish",
    ".ps1": "powershell", ".psm1": "powershell", ".bat": "batch", ".cmd": "batch", ".sql": "sql", ".kt": "kotlin",
    ".kts": "kotlin", ".groovy": "groovy", ".gradle": "groovy", ".swift": "swift", ".mm": "objective-c", ".dart": "dart",
    ".scala": "scala", ".clj": "clojure", ".cljs": "clojure", ".cljc": "clojure", ".ex": "elixir",
    ".exs": "elixir", ".erl": "erlang", ".hrl": "erlang", ".hs": "haskell", ".lhs": "haskell", ".elm": "elm", ".ml": "ocaml",
    ".mli": "ocaml", ".lua": "lua", ".pl": "perl", ".pm": "perl", ".r": "r", ".jl": "julia", ".f": "fortran",
    ".f90": "fortran", ".f95": "fortran", ".pas": "pascal", ".asm": "assembly", ".s": "assembly", ".sv": "systemverilog",
    ".vhd": "vhdl", ".vhdl": "vhdl", ".zig": "zig", ".nim": "nim", ".cr": "crystal", ".sol": "solidity", ".lisp": "lisp",
    ".el": "lisp", ".scm": "scheme", ".rkt": "racket", ".lean": "lean", ".tcl": "tcl", ".awk": "awk",
    ".vim": "vim", ".cmake": "cmake", ".mk": "makefile", ".dockerfile": "dockerfile", ".tf": "terraform", ".proto": "protobuf",
    ".graphql": "graphql", ".pyx": "cython", ".pxd": "cython", ".css": "css", ".scss": "scss", ".less": "less",
    ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".xml": "xml", ".xsl": "xslt", ".xslt": "xslt",
    ".ini": "ini", ".ipynb": "jupyter",
}  # fmt: skip
NAMES = {
    "makefile": "makefile", "gnumakefile": "makefile", "dockerfile": "dockerfile", "containerfile": "dockerfile",
    "cmakelists.txt": "cmake", "rakefile": "ruby", "gemfile": "ruby", "jenkinsfile": "groovy", "go.mod": "gomod",
}  # fmt: skip
"""Languages of files whose whole name tells it."""
DOMAINS = {
    HTML: "web",
    MARKDOWN: "docs",
    TEXT: "text",
    CODE: "code",
    RECORD: "web",
    MODULE: "code",
    METADATA: "docs",
    PDF: "docs",
}
CONTAINERS = (RECORD, WARC, ARCHIVE, REPOSITORY)
"""Kinds of files that hold many documents."""
_WARCS = (".warc", ".warc.gz", ".wet", ".wet.gz")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


@dataclass(slots=True)
class Raw:
    """One thing to read. A verdict says it is hopeless.

    `file` is read by a worker, unless `content` came along. `document` holds what is known beforehand: all of a record; of
    the other kinds where they come from, with an empty text.
    """

    id: str
    kind: str
    num_bytes: int
    path: str = ""
    file: str = ""
    lang: str = ""
    license: str = ""
    document: documents.Document | None = None
    verdict: Verdict | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class Listing:
    """What a source holds: what is read file by file, and the files that hold many records.

    `raws` can be walked again and again; those of a folder are not held, since a crawl has millions. `is_packed` says that
    the bytes of the files are not the bytes of what is in them.
    """

    raws: Iterable[Raw]
    num_bytes: int = 0
    num_files: int = 0
    is_packed: bool = False

    @classmethod
    def of(cls, raws: Iterable[Raw]) -> Listing:
        """Walks through it once."""
        num_bytes = num_files = 0
        is_packed = False
        for raw in raws:
            num_bytes += raw.num_bytes
            num_files += 1
            is_packed |= raw.kind in CONTAINERS and not raw.file.endswith((".jsonl", ".ndjson"))
        return cls(raws, num_bytes, num_files, is_packed)


def kind_of(name: str) -> str:
    """What a file is by its name; text if the name says nothing."""
    lower = name.lower()
    if lower.endswith(_WARCS):
        return WARC
    if lower.endswith(_ARCHIVES):
        return ARCHIVE
    suffix = os.path.splitext(lower)[1]
    if suffix == ".parquet" or jsonl.is_jsonl(Path(name)):
        return RECORD
    return CODE if language_of(lower) else KINDS.get(suffix, TEXT)


def language_of(path: str) -> str:
    """The programming language that a file's name tells, or empty."""
    name = os.path.basename(path).lower()
    return NAMES.get(name) or LANGUAGES.get(os.path.splitext(name)[1], "")


def printable(name: str) -> str:
    """A file's name as text that can be stored: bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def rejected(container: Raw, name: str, verdict: Verdict, num_bytes: int = 0) -> Raw:
    """Something inside a larger file that cannot be read."""
    return Raw(name, TEXT, num_bytes, path=container.path, verdict=verdict)
