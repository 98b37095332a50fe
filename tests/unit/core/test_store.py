from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lianlu.core import files
from lianlu.core.errors import ArtifactError
from lianlu.core.files import DigestCache, atomic_write, files_below, remove_leftovers, write_json, write_text
from lianlu.core.store import Artifact, Output, Store, damaged_files


def draft(artifact_id: str = "clean-000000000001", **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": artifact_id, "kind": "documents", "stage": "clean", "stage_version": 1, "step": "clean", "key": "k",
        "config": {}, "inputs": [], "lianlu": "0", "git": "", "device": "cpu", "started": "2026-01-01T00:00:00.000Z",
        "seconds": 1.0, "peak_memory_bytes": 1,
    }  # fmt: skip
    return {**base, **more}


def publish(store: Store, artifact_id: str = "clean-000000000001", text: str = "hello", log: str = "a") -> Artifact:
    out = Output(store.work(artifact_id))
    write_text(out.path / "data.txt", text)
    write_text(out.logs / "times.txt", log)
    out.figures["documents"] = 3
    return store.publish(out, draft(artifact_id))


def test_published_artifact_is_found_with_its_figures(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    found = store.find("clean-000000000001")
    assert found is not None
    assert found.manifest.figures == {"documents": 3}
    assert not (tmp_path / "work" / "clean-000000000001").exists()


def test_digest_is_of_contents_and_not_of_logs(tmp_path: Path) -> None:
    first = publish(Store(tmp_path / "a"), log="fast").manifest.digest
    assert publish(Store(tmp_path / "b"), log="slow").manifest.digest == first
    assert publish(Store(tmp_path / "c"), text="other").manifest.digest != first


def test_hidden_scratch_files_are_no_part_of_an_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    out = Output(store.work("x-1"))
    write_text(out.path / ".resume" / "state", "half")
    write_text(out.path / "data.txt", "whole")
    assert [f.path for f in store.publish(out, draft("x-1")).manifest.files] == ["data.txt"]


def test_work_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_text(store.work("clean-1") / "data.txt", "half")
    assert store.find("clean-1") is None
    assert store.list() == []


@pytest.mark.parametrize("damage", ["truncate", "delete", "garbage", "future", "empty"])
def test_damage_is_named_with_a_remedy(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    manifest = artifact.path / "manifest.json"
    if damage == "truncate":
        (artifact.path / "data.txt").write_text("he")
    elif damage == "delete":
        (artifact.path / "data.txt").unlink()
    elif damage == "future":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    else:
        manifest.write_text("{" if damage == "garbage" else "")
    with pytest.raises(ArtifactError) as error:
        store.find(artifact.id)
    assert str(artifact.path) in error.value.message
    assert "upgrade" in error.value.hint if damage == "future" else "gc --damaged" in error.value.hint


def test_silent_damage_is_found_by_hash(tmp_path: Path) -> None:
    artifact = publish(Store(tmp_path))
    (artifact.path / "data.txt").write_text("jello")
    assert damaged_files(artifact) == ["data.txt"]


def test_get_by_step_prefix_and_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    store.set_name("clean", artifact.id)
    assert store.get("@clean").id == store.get("clean-0").id == store.get(artifact.manifest.digest[:8]).id == artifact.id
    with pytest.raises(ArtifactError, match="there is no artifact nope"):
        store.get("nope")
    publish(store, "clean-000000000002", text="other")
    with pytest.raises(ArtifactError, match="fits several"):
        store.get("clean-0")


def test_locate_prefers_the_environment_then_the_nearest_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIANLU_HOME", raising=False)
    (tmp_path / ".lianlu").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert Store.locate(tmp_path / "a" / "b").root == tmp_path / ".lianlu"
    monkeypatch.setenv("LIANLU_HOME", str(tmp_path / "else"))
    assert Store.locate(tmp_path).root == tmp_path / "else"


HOLDER = """
import sys, time
from pathlib import Path
from lianlu.core.store import Store
with Store(Path(sys.argv[1])).lock("x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waited: list[float] = []

        def on_wait() -> None:
            waited.append(time.monotonic())
            holder.kill()

        with store.lock("x", on_wait):
            assert len(waited) == 1


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left") as error:
        write_json(path, {"a": 2})
    assert "free some space" in error.value.hint
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "x") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_digest_cache_notices_changed_contents(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_text(data / "a.txt", "one")
    cache = DigestCache(tmp_path / "digests.json")
    first = cache.tree(data)
    cache.save()
    assert DigestCache(tmp_path / "digests.json").tree(data) == first
    write_text(data / "a.txt", "two")
    os.utime(data / "a.txt", (1, 1))
    assert DigestCache(tmp_path / "digests.json").tree(data) != first


def test_files_below_is_sorted_and_without_hidden(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", ".git/x", "b/.y"):
        write_text(tmp_path / name, "")
    assert [str(p.relative_to(tmp_path)) for p in files_below(tmp_path)] == ["a", "b/1", "b/2"]


def test_unfinished_work_is_found_by_step_and_by_id(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = store.work("sft-aaa", "tune"), store.work("sft-bbb", "other")
    os.utime(first, (1, 1))
    assert store.unfinished() == (first, second)
    assert store.unfinished("@tune") == (first,)
    assert store.unfinished("sft-b") == (second,)
    assert store.unfinished("@sft") == ()
    assert store.unfinished("@older") == ()
    older = store.work("sft-ccc")
    assert store.unfinished("@sft") == (older,)


def test_the_name_of_the_step_does_not_stay_in_the_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.work("sft-aaa", "tune")
    fields = {
        "id": "sft-aaa", "kind": "adapter", "stage": "sft", "stage_version": 1, "step": "tune", "key": "k", "config": {},
        "inputs": [], "lianlu": "0", "git": "", "device": "", "started": "", "seconds": 1.0, "peak_memory_bytes": 1,
    }  # fmt: skip
    artifact = store.publish(Output(folder), fields)
    assert list(artifact.path.iterdir()) == [artifact.path / "manifest.json"]
    assert store.unfinished() == ()


def test_whether_somebody_is_at_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.is_locked("sft-aaa")
    with store.lock("sft-aaa"):
        assert store.is_locked("sft-aaa")
    assert not store.is_locked("sft-aaa")


def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    names = (".a.json.0123456789ab.tmp", "deep/.b.npz.ba9876543210.tmp", "a.json", ".step", ".c.0123.tmp", ".resume/d.tmp")
    for name in names:
        write_text(tmp_path / name, "half")
    with atomic_write(tmp_path / "deep" / "whole.bin") as file:
        file.write(b"first")
        remove_leftovers(tmp_path)
        file.write(b" and last")
    assert (tmp_path / "deep" / "whole.bin").read_bytes() == b"first and last"
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*names[2:], "deep/whole.bin"}


def test_leftovers_are_removed_where_a_stage_goes_on_and_where_it_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    leftover = store.work("x-1", "step") / "scored" / ".00001.npz.0123456789ab.tmp"
    write_text(leftover, "half")
    out = Output(store.work("x-1", "step"))
    assert not leftover.exists()
    write_text(leftover, "half of another")
    write_text(out.path / "data.txt", "whole")
    artifact = store.publish(out, draft("x-1"))
    assert [path.name for path in (artifact.path / "scored").iterdir()] == []
