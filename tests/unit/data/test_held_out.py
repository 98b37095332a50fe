"""Held-out documents: chosen by their ids, agreed on by both sides, marked as items that decontaminate takes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.data import decontaminate, held_out
from lianlu.data.decontaminate import DecontaminateConfig
from lianlu.data.held_out import HeldOutConfig
from lianlu.formats.documents import Document, read_documents, write_documents


def text(number: int, words: int = 80) -> str:
    return " ".join(f"word{number}x{place * 7 % 31}y{place}" for place in range(words))


def write(folder: Path, documents: list[Document]) -> str:
    folder.mkdir()
    write_documents(folder, documents)
    return str(folder)


def chosen(out: Path, **config: object) -> list[Document]:
    out.mkdir()
    held_out.run(HeldOutConfig.model_validate(config), Output(out))
    return list(read_documents(out))


def test_only_what_both_sides_have_letter_for_letter_is_chosen(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", text(n), source="s", meta={"tier": "high"}) for n in range(60)]
    edited = [Document(d.id, d.text + "!") if n % 3 == 0 else d for n, d in enumerate(documents) if n % 4]
    first, second = write(tmp_path / "a", documents), write(tmp_path / "b", edited)
    found = chosen(tmp_path / "out", data=first, also_in=[second], share=1.0)
    assert {document.id for document in found} == {f"d{n}" for n in range(60) if n % 4 and n % 3}
    assert all(document.meta == {"tier": "high", "task": "held-out", "item": document.id} for document in found)
    other = write(tmp_path / "c", [Document("x", text(1))])
    with pytest.raises(DataError, match="no document stands in both with the same text") as error:
        chosen(tmp_path / "none", data=first, also_in=[other])
    assert "--held-out FILE" in error.value.hint


def test_share_and_bytes_are_kept_and_the_choice_is_that_of_the_ids(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", text(n)) for n in range(100)]
    whole, part = write(tmp_path / "a", documents), write(tmp_path / "b", documents[::2])
    few = chosen(tmp_path / "few", data=whole, share=0.2)
    assert len(few) == 20
    assert {d.id for d in few} & {d.id for d in documents[::2]} <= {d.id for d in chosen(tmp_path / "p", data=part, share=0.4)}
    assert {d.id for d in few} != {d.id for d in chosen(tmp_path / "s", data=whole, share=0.2, seed=1)}
    size = len(text(10))
    assert len(chosen(tmp_path / "small", data=whole, share=1.0, max_bytes=5 * size + size // 2)) in (5, 6)
    assert len(chosen(tmp_path / "one", data=whole, share=1.0, max_bytes=1)) == 1


def test_short_documents_are_not_chosen_and_decontaminate_takes_the_others_and_their_copies(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", text(n)) for n in range(40)] + [Document(f"s{n}", text(n, 9)) for n in range(40, 60)]
    copies = [Document(f"copy{n}", "Another beginning. " + text(n)) for n in range(40)]
    folder = write(tmp_path / "a", documents + copies)
    items = chosen(tmp_path / "items", data=write(tmp_path / "b", documents), share=0.3)
    assert len(items) == 12
    assert all(item.id.startswith("d") for item in items)
    out = Output(tmp_path / "out")
    out.path.mkdir()
    decontaminate.run(
        DecontaminateConfig.model_validate({"data": folder, "items": str(tmp_path / "items"), "max_items": 1_000_000}), out
    )
    gone = {item.id for item in items} | {f"copy{item.id[1:]}" for item in items}
    assert {document.id for document in read_documents(out.path)} == {d.id for d in documents + copies} - gone
    assert out.figures["items_too_short"] == {}
