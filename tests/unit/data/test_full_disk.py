"""A disk that fills: a clear error wherever it happens, nothing half-written taken for whole, and the same command goes on."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from lianlu.core import files
from lianlu.core.errors import ArtifactError
from lianlu.core.store import Artifact, Store
from lianlu.formats.documents import Document, write_jsonl
from lianlu.recipe.recipe import build_recipe
from lianlu.recipe.run import run_recipe

WORDS = ["river", "stone", "letter", "window", "garden", "paper", "copper", "winter", "bridge", "candle"]


def made(root: Path, source: Path) -> Artifact:
    rules = ["gopher_quality", "exact_dedup", "near_dedup", "line_dedup"]
    steps = {"clean": {"stage": "clean", "source": str(source), "rules": rules, "workers": 1}}
    (result,) = run_recipe(build_recipe("test", {"steps": steps}), Store(root))
    return result.artifact


def attempt(root: Path, source: Path) -> Artifact | ArtifactError:
    try:
        return made(root, source)
    except ArtifactError as error:
        return error


@pytest.fixture
def source(tmp_path: Path) -> Path:
    texts = (
        " ".join(f"{WORDS[(n * 3 + k) % 10]}{n}" for k in range(60)) + ".\nA line that all of them share in the end."
        for n in range(300)
    )
    write_jsonl(tmp_path / "source.jsonl", [Document(f"d{n}", text) for n, text in enumerate(texts)])
    return tmp_path / "source.jsonl"


def test_at_every_file_that_is_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tmp_path / "whole", source)
    sync, allocate = os.fsync, os.posix_fallocate
    left = 0

    def spend() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", lambda handle: (spend(), sync(handle)))
    monkeypatch.setattr(files.os, "posix_fallocate", lambda *own: (spend(), allocate(*own)))
    for number in range(100):
        left = number
        again = attempt(tmp_path / "full", source)
        if isinstance(again, Artifact):
            break
        assert "No space left on device" in again.message
        assert "free some space and run again" in again.hint
        assert {one.manifest.digest for one in Store(tmp_path / "full").list()} <= {whole.manifest.digest}
        assert not list((tmp_path / "full").rglob(".*.tmp"))
    assert number > 15
    assert isinstance(again, Artifact)
    assert again.manifest.digest == whole.manifest.digest


def test_when_files_may_not_grow_as_large_as_they_have_to(source: Path, tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", source)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    stops = 0
    for power in range(8, 30):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(2 ** (power / 1.3)), hard))
        try:
            again = attempt(tmp_path / "full", source)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if isinstance(again, Artifact):
            break
        stops += 1
        assert "cannot write" in again.message
        assert "allow larger ones" in again.hint or "check the path" in again.hint
    assert stops > 5
    assert isinstance(again, Artifact)
    assert again.manifest.digest == whole.manifest.digest


def test_numpy_that_could_not_write_all_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: free._replace(free=0))
    for errors in (files.disk_errors, files.full_disk_errors):
        with pytest.raises(ArtifactError, match="No space left on device"), errors(tmp_path / "a.npy"):
            raise OSError("1000 requested and 12 written")
    with pytest.raises(FileNotFoundError), files.full_disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")
