"""The GGUF reader on files written by hand, whole and broken. Block types are held to the gguf package in tests/parity."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.errors import DataError
from lianlu.formats.gguf import read_gguf
from lianlu.formats.gguf_blocks import BLOCK_TYPES, dequantise


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def whole() -> bytes:
    """A file with a value of every kind, a 2 x 3 float tensor and a row of Q8_0."""
    keys = [
        text("a.int") + struct.pack("<Ii", 5, -7),
        text("a.float") + struct.pack("<If", 6, 0.5),
        text("a.flag") + struct.pack("<I?", 7, True),
        text("a.text") + struct.pack("<I", 8) + text("hällo"),
        text("a.long") + struct.pack("<IQ", 10, 1 << 40),
        text("a.words") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text(""),
        text("a.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 1.0, -2.0),
        text("a.flags") + struct.pack("<IIQ", 9, 7, 2) + b"\x01\x00",
    ]
    infos = text("m") + struct.pack("<IQQIQ", 2, 3, 2, 0, 0) + text("q") + struct.pack("<IQIQ", 1, 32, 8, 32)
    head = header(tensors=2, keys=len(keys)) + b"".join(keys) + infos
    head += b"\0" * (-len(head) % 32)
    matrix = np.arange(6, dtype="<f4").tobytes()
    return head + matrix + b"\0" * 8 + np.float16(0.5).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()


def test_metadata_and_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole())
    file = read_gguf(path)
    assert file.metadata == {
        "a.int": -7,
        "a.float": 0.5,
        "a.flag": True,
        "a.text": "hällo",
        "a.long": 1 << 40,
        "a.words": ["x", ""],
        "a.scores": [1.0, -2.0],
        "a.flags": [True, False],
    }
    assert file.tensors["m"].shape == (2, 3)
    assert file.array("m").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.array("q").tolist() == [i / 2 for i in range(-16, 16)]
    assert file.array("q").dtype == np.float32


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole()[:4] + struct.pack("<I", 2) + whole()[8:])
    assert len(read_gguf(path).tensors) == 2


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, len(whole()) - 1))
def test_any_cut_is_refused_by_name(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "short.gguf"
    path.write_bytes(whole()[:cut])
    with pytest.raises(DataError, match=r"short\.gguf"):
        read_gguf(path)


@settings(max_examples=80, deadline=None)
@given(at=st.integers(0, 300), value=st.integers(0, 255))
def test_a_flipped_byte_never_raises_anything_else(at: int, value: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = bytearray(whole())
    data[at % len(data)] = value
    path = tmp_path_factory.mktemp("flip") / "flipped.gguf"
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        file = read_gguf(path)
        for name in file.tensors:
            file.array(name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header(version=4), "version 4"),
        (header(version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (header(keys=1) + text("k") + struct.pack("<I", 99), "value type 99"),
        (header(keys=1) + struct.pack("<Q", 1 << 60), "cut short"),
        (header(keys=1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 50), "array"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 4, 77, 0), "block type 77"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 33, 8, 0), "whole number"),
        (header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 1 << 40, 0, 0), "beyond the end"),
        (header(tensors=1) + text("t") + struct.pack("<I", 200), "dimensions"),
    ],
)
def test_wrong_files_are_explained(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as error:
        read_gguf(path)
    assert "wrong.gguf" in error.value.message
    assert error.value.hint


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    for path in (tmp_path / "absent.gguf", tmp_path / "empty.gguf", tmp_path):
        with pytest.raises(DataError, match=path.name):
            read_gguf(path)


def test_unknown_tensor_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(whole())
    with pytest.raises(DataError, match="'nope'"):
        read_gguf(tmp_path / "m.gguf").array("nope")


def test_long_tensors_are_decoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.random.default_rng(0).integers(0, 256, 34 * 11, dtype=np.uint8)
    with np.errstate(all="ignore"):
        at_once = dequantise(raw, BLOCK_TYPES[8])
        monkeypatch.setattr("lianlu.formats.gguf_blocks.CHUNK_BLOCKS", 3)
        assert np.array_equal(dequantise(raw, BLOCK_TYPES[8]), at_once, equal_nan=True)
