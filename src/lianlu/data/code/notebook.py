"""Jupyter notebooks: cells as Markdown without outputs, made when one is read. Source: nbformat 4 (`cells`), 3 (`worksheets`)."""

from __future__ import annotations

import json
from typing import Any

from lianlu.data.code.fences import fenced

Cell = dict[str, Any]


def to_markdown(text: str) -> str | None:
    """Text cells as they are, code cells fenced, outputs left out; None if this is no notebook."""
    book = _parsed(text)
    cells = _cells(book)
    if not cells:
        return None
    meta = book.get("metadata")
    lang = _language(meta if isinstance(meta, dict) else {})
    blocks = [fenced(source, lang) if cell.get("cell_type") == "code" else source for cell in cells if (source := _source(cell))]
    return "\n\n".join(blocks) + "\n"


def _parsed(text: str) -> dict[str, Any]:
    try:
        book = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return book if isinstance(book, dict) else {}


def _cells(book: dict[str, Any]) -> list[Cell]:
    sheets = book.get("worksheets") or [book]
    found = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)] if isinstance(sheets, list) else []
    return [cell for cells in found if isinstance(cells, list) for cell in cells if isinstance(cell, dict)]


def _source(cell: Cell) -> str:
    source = cell.get("source", cell.get("input", ""))
    lines = source if isinstance(source, list) else [source]
    return "".join(line for line in lines if isinstance(line, str)).strip("\n")


def _language(meta: dict[str, Any]) -> str:
    for part in ("language_info", "kernelspec"):
        told = meta.get(part)
        name = told.get("name" if part == "language_info" else "language") if isinstance(told, dict) else None
        if isinstance(name, str):
            return name.lower()
    return "python"
