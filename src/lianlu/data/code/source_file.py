"""Where a document of code lies in its repository, and in which language it is: by its name, or by what it says itself."""

from __future__ import annotations

from lianlu.data.read.raw import CONTAINERS, HTML, LANGUAGES, NAMES, kind_of, language_of
from lianlu.formats.documents import Document

_KNOWN = frozenset((*LANGUAGES.values(), *NAMES.values(), "html"))


def path_of(document: Document) -> str:
    """The path of the file; its id where the path is that of a file of records."""
    path = document.path
    return path if path and kind_of(path) not in CONTAINERS else document.id


def language(document: Document) -> str:
    """The language as `Document.lang` names it, in lower case; empty if nothing tells it.

    What the document says counts where it is one of our names; else its path does; else what it says, whatever that is.
    """
    told, path = document.lang.lower(), path_of(document)
    if told in _KNOWN:
        return told
    if kind_of(path) == HTML and document.text.lstrip().startswith("<"):  # what was taken out of a page has no tags
        return "html"
    return language_of(path) or told
