"""Hub ids: what is fetched, what is refused, and what is said when the hub cannot be reached."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from lianlu.core.errors import DataError
from lianlu.model import hub, pull


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("org/name", True),
        ("Qwen/Qwen2.5-0.5B@main", True),
        ("name", False),
        ("./org/name", False),
        ("/org/name", False),
        ("a/b/c", False),
    ],
)
def test_ids_by_their_shape(name: str, is_id: bool) -> None:
    assert hub.is_id(name) is is_id


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict:
    """A hub with one repository, whose snapshot the test fills."""
    state: dict = {"folder": tmp_path / "snapshot", "asked": {}, "error": None}
    state["folder"].mkdir()

    def info(self, repo, revision=None, files_metadata=False):
        if state["error"]:
            raise state["error"]
        files = [
            SimpleNamespace(rfilename="model.safetensors", size=10),
            SimpleNamespace(rfilename="pytorch_model.bin", size=999),
        ]
        return SimpleNamespace(sha="0123456789abcdef", siblings=files)

    def snapshot(repo, revision=None, local_files_only=False, **filters):
        if local_files_only and not state.get("here"):
            raise OSError("not cached")
        state["asked"] = {"repo": repo, "revision": revision, **filters}
        return str(state["folder"])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return state


def test_only_safetensors_json_and_tokenizer_files_are_asked_for(fake: dict, capsys: pytest.CaptureFixture[str]) -> None:
    (fake["folder"] / "model.safetensors").write_bytes(b"x")
    assert pull.resolve("org/name@v1") == fake["folder"]
    assert fake["asked"]["revision"] == "0123456789abcdef"
    assert "*.safetensors" in fake["asked"]["allow_patterns"]
    assert not any(".bin" in pattern or ".pt" in pattern or "pkl" in pattern for pattern in fake["asked"]["allow_patterns"])
    assert "(10 B)" in capsys.readouterr().err


def test_a_model_that_is_here_needs_no_hub(fake: dict) -> None:
    fake["here"] = True
    fake["error"] = ConnectionError("offline")
    (fake["folder"] / "model.safetensors").write_bytes(b"x")
    assert pull.local_path("org/name") == fake["folder"]


def test_a_snapshot_that_lacks_a_shard_is_not_here(fake: dict) -> None:
    fake["here"] = True
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (fake["folder"] / "model.safetensors.index.json").write_text(json.dumps(index))
    (fake["folder"] / "model-1.safetensors").write_bytes(b"x")
    assert pull.local_path("org/name") is None
    (fake["folder"] / "model-2.safetensors").write_bytes(b"x")
    assert pull.local_path("org/name") == fake["folder"]


def test_pickles_alone_are_refused(fake: dict) -> None:
    with pytest.raises(DataError, match="no safetensors") as caught:
        pull.pull("org/name")
    assert "no pickles" in caught.value.hint


def test_offline_is_a_clear_error(fake: dict) -> None:
    fake["error"] = ConnectionError("no route to host")
    with pytest.raises(DataError, match="org/name") as caught:
        pull.pull("org/name")
    assert "HF_ENDPOINT" in caught.value.hint


def test_an_unknown_id_is_a_clear_error(fake: dict) -> None:
    class RepositoryNotFoundError(OSError):
        pass

    fake["error"] = RepositoryNotFoundError("404 Client Error")
    with pytest.raises(DataError) as caught:
        pull.pull("org/nmae")
    assert "check the id" in caught.value.hint
