import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lianlu.core.errors import ArtifactError, DataError
from lianlu.formats.checkpoint import INDEX, WEIGHTS, Tensors, read_json, write_safetensors, write_tensors

torch.set_num_threads(1)


def sample() -> dict[str, torch.Tensor]:
    return {
        "b": torch.arange(6, dtype=torch.float32).view(2, 3),
        "a": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float16),
        "empty": torch.zeros(0, 4),
        "codes": torch.tensor([-127, 0, 127], dtype=torch.int8),
        "strided": torch.arange(6.0).view(2, 3).t(),
    }


def test_one_file_is_read_by_us_and_by_safetensors(tmp_path: Path) -> None:
    assert write_tensors(tmp_path, sample().items()) == [tmp_path / WEIGHTS]
    ours, theirs = Tensors(tmp_path), load_file(tmp_path / WEIGHTS)
    assert ours.names() == sorted(sample())
    for name in sample():
        assert torch.equal(ours.tensor(name), theirs[name])
    assert torch.equal(theirs["strided"], sample()["strided"])
    assert theirs["a"].dtype == torch.bfloat16


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("x", "y"):
        torch.manual_seed(0)
        write_tensors(tmp_path / name, sample().items())
    assert (tmp_path / "x" / WEIGHTS).read_bytes() == (tmp_path / "y" / WEIGHTS).read_bytes()


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8), limit=st.integers(4, 100))
def test_shards_hold_everything_and_keep_the_limit(
    sizes: list[int], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": torch.full((size,), float(i)) for i, size in enumerate(sizes)}
    files = write_tensors(folder, tensors.items(), max_shard_bytes=limit)
    for file in files:
        held = load_file(file)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= limit
    reader = Tensors(folder)
    assert reader.names() == sorted(tensors)
    assert all(torch.equal(reader.tensor(name), tensor) for name, tensor in tensors.items())
    if len(files) > 1:
        assert json.loads((folder / INDEX).read_text())["metadata"]["total_size"] == 4 * sum(sizes)


def test_a_second_save_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    write_tensors(tmp_path, [(f"t{i}", torch.ones(4)) for i in range(5)], max_shard_bytes=16)
    (tmp_path / "notes.safetensors").write_bytes(b"mine")
    write_tensors(tmp_path, [("only", torch.zeros(2))])
    assert sorted(path.name for path in tmp_path.iterdir()) == [WEIGHTS, "notes.safetensors"]
    assert Tensors(tmp_path).names() == ["only"]


def test_a_single_file_may_be_named(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    assert Tensors(tmp_path / "other.safetensors").names() == ["x"]
    assert Tensors(tmp_path).names() == ["x"]


def test_unknown_tensor_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path, [("x", torch.ones(1))])
    with pytest.raises(DataError, match="no tensor 'y'"):
        Tensors(tmp_path).tensor("y")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(DataError, match="pickle") as error:
        Tensors(tmp_path)
    assert "safetensors" in error.value.hint
    with pytest.raises(DataError, match="not a safetensors file"):
        Tensors(tmp_path / name)


def test_empty_and_missing_folders_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=WEIGHTS):
        Tensors(tmp_path)
    with pytest.raises(DataError, match="absent"):
        Tensors(tmp_path / "absent")


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_cut_files_are_refused_by_name(tmp_path: Path, cut: int) -> None:
    write_tensors(tmp_path, sample().items())
    file = tmp_path / WEIGHTS
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match=WEIGHTS):
        Tensors(tmp_path)


def test_noise_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(bytes(range(256)) * 10)
    with pytest.raises(DataError, match=WEIGHTS):
        Tensors(tmp_path)


def sharded(folder: Path) -> dict[str, object]:
    write_tensors(folder, [(f"t{i}", torch.ones(4)) for i in range(3)], max_shard_bytes=16)
    return json.loads((folder / INDEX).read_text())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(DataError, match="model-00002-of-00003"):
        Tensors(tmp_path)


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    table = sharded(tmp_path)
    table["weight_map"]["ghost"] = "model-00001-of-00003.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(table))
    with pytest.raises(DataError, match="ghost"):
        Tensors(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {"x": 3}}', '{"weight_map": {"x": "../x.safetensors"}}'])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(DataError, match=r"index\.json"):
        Tensors(tmp_path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path, [("x", torch.ones(3))])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lianlu.formats.checkpoint._write_bytes", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_tensors(tmp_path, [("x", torch.zeros(3))])
    assert torch.equal(Tensors(tmp_path).tensor("x"), torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


def test_metadata_is_kept(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_safetensors(tmp_path / "x.safetensors", {"x": torch.ones(1)}, {"made": "here"})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "made": "here"}


def test_json_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    for name in ("bad.json", "absent.json"):
        with pytest.raises(DataError, match=name):
            read_json(tmp_path / name)
