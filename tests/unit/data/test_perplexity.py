"""Pieces of texts, and counts as judge of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.data.filters import count_model, perplexity
from lianlu.data.filters.count_model import CountModel
from lianlu.data.filters.perplexity import opened, spread
from lianlu.data.rules.textview import TextView

SEEDS = [
    "The house stood on a hill, and the road went past it to the river. " * 20,
    "小屋在山上，路从旁边经过，一直到河边。" * 20,
]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counts") / "seeds.npz"
    count_model.train(SEEDS, path)
    return path


@given(text=st.text(max_size=400), piece=st.integers(16, 90), window=st.integers(0, 200))
def test_all_pieces_make_up_the_text(text: str, piece: int, window: int) -> None:
    pairs = spread(text, piece + window, piece, 10_000)
    text = text.encode("utf-8", "replace").decode()
    assert "".join(part for _, part in pairs) == text
    assert all(0 < len(part.encode()) <= piece for _, part in pairs)
    place = 0
    for before, part in pairs:
        assert text[:place].endswith(before)
        assert len(before.encode()) <= window + piece - len(part.encode())
        assert len(before.encode()) >= min(len(text[:place].encode()), window + piece - len(part.encode()) - 3)
        place += len(part)


@given(count=st.integers(1, 12), words=st.integers(1, 600))
def test_some_pieces_are_spread_from_first_to_last(count: int, words: int) -> None:
    text = " ".join(f"w{n}" for n in range(words))
    whole = [piece for _, piece in spread(text, 64, 64, 10_000)]
    some = [piece for _, piece in spread(text, 64, 64, count)]
    assert len(some) == min(count, len(whole))
    assert some[0] == whole[0]
    assert count == 1 or some[-1] == whole[-1]
    places = [whole.index(piece) for piece in some]
    assert places == sorted(set(places))


def test_words_are_not_cut_where_white_space_is_near() -> None:
    pieces = [piece for _, piece in spread("some words of a text " * 40, 128, 64, 100)]
    assert all(piece.startswith(" ") for piece in pieces[1:])


def test_text_like_the_seeds_is_cheap(counts: Path) -> None:
    model = CountModel.load(counts)
    like, unlike = "The river went past the house.", "QX#7;;zz!!kWpV"
    assert model.bits_per_byte(like) < 3.5
    assert model.bits_per_byte(unlike) > 7
    assert model.bits_per_byte("路从山上经过") < 4
    assert np.isnan(model.bits_per_byte(""))
    assert dict(perplexity.signals(TextView(like), model))["max_bits_per_byte"] == model.bits_per_byte(like)


def test_a_context_with_the_same_words_helps(counts: Path) -> None:
    model = CountModel.load(counts)
    text = "Orlovsky signed the Vienna treaty."
    about, other, none = "The Vienna treaty: Orlovsky signed it. " * 3, "Flour, eggs and butter are mixed. " * 3, ""
    helped, unhelped, nothing = model.context_cost([(about, text), (other, text), (none, text)])
    assert helped < -0.1 < unhelped
    assert nothing == 0


def test_pairs_do_not_see_each_other(counts: Path) -> None:
    model = CountModel.load(counts)
    pairs = [("about the hill", "the hill"), ("山上", "小屋在山上"), ("x", "yyy")]
    assert model.context_cost(pairs) == pytest.approx([model.context_cost([pair])[0] for pair in pairs])


def test_equal_seeds_give_equal_files(counts: Path, tmp_path: Path) -> None:
    count_model.train(iter(SEEDS), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == counts.read_bytes()
    assert CountModel.load(counts).fingerprint() == CountModel.load(tmp_path / "again.npz").fingerprint()
    count_model.train(SEEDS, tmp_path / "less.npz", max_bytes=100)
    assert CountModel.load(tmp_path / "less.npz").fingerprint() != CountModel.load(counts).fingerprint()


def test_a_model_is_opened_by_its_name(counts: Path, tmp_path: Path) -> None:
    assert isinstance(opened(str(counts)), CountModel)
    assert opened(str(counts)) is opened(str(counts))
    with pytest.raises(DataError, match="no model"):
        opened(str(tmp_path / "checkpoint"))
    with pytest.raises(DataError, match="no seed texts"):
        count_model.train([""], tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz"):
        CountModel.load(tmp_path / "bad.npz")
    with pytest.raises(DataError, match=r"none\.npz"):
        CountModel.load(tmp_path / "none.npz")
