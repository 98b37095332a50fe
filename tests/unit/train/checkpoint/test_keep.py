"""When states are written, what becomes of them when the disk refuses, and that the background changes nothing."""

from __future__ import annotations

import builtins
import errno
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lianlu.core.errors import ArtifactError
from lianlu.train.checkpoint import folder as states
from lianlu.train.checkpoint.folder import RECORD, read_state, state_folder, steps
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.checkpoint.storage import DamagedError

from .conftest import make_run, one_step, same

New = Callable[..., Checkpoints]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def warnings_said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("lianlu.core.console.warn", said.append)
    return said


# -- when


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"every": 3, "seconds": 1e-9}, [3, 6, 9]),
        ({"every": 3, "keep_every": 4}, [3, 4, 6, 8, 9]),
        ({"seconds": 1e-9}, list(range(1, 11))),
        ({"seconds": 1e9}, []),
        ({"seconds": 1e9, "keep_every": 5}, [5, 10]),
    ],
)
def test_when_a_state_is_due(new_checkpoints: New, fields: dict[str, Any], expected: list[int]) -> None:
    checkpoints = new_checkpoints(**fields)
    assert [step for step in range(1, 11) if checkpoints.due(step)] == expected


def test_a_new_best_figure_is_due_at_once_and_only_once(new_checkpoints: New) -> None:
    checkpoints, run = new_checkpoints(every=100, keep_best=True), make_run(num_steps=0)
    written = []
    for step, figure in enumerate([None, 3.0, 3.0, float("nan"), 2.0, 2.5, 2.0, 1.0], start=1):
        if checkpoints.due(step, figure):
            checkpoints.save(*run, step, figure)
            written.append(step)
    assert written == [2, 5, 8]
    again = new_checkpoints(every=100, keep_best=True)
    again.restore(*run)
    assert not again.due(9, 1.0)
    assert again.due(9, 0.5)


def test_a_slow_disk_makes_states_rarer(new_checkpoints: New, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("lianlu.train.checkpoint.keep.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("lianlu.train.checkpoint.keep.plan_state", lambda *_: clock.__setitem__(0, clock[0] + 10))
    monkeypatch.setattr("lianlu.train.checkpoint.keep.states.commit", lambda *_: None)
    checkpoints = new_checkpoints(seconds=30)
    clock[0] = 31
    assert checkpoints.due(1)
    checkpoints.save(*make_run(num_steps=0), 1, None)
    clock[0] += 199
    assert not checkpoints.due(2)
    clock[0] += 2
    assert checkpoints.due(3)


# -- what


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_policy_on_disk(new_checkpoints: New, tmp_path: Path, asynchronous: bool) -> None:
    checkpoints = new_checkpoints(keep_last=2, keep_every=4, keep_best=True, asynchronous=asynchronous)
    run = make_run(num_steps=0)
    for step, figure in enumerate([0.9, 0.2, None, 0.8, 0.7, 0.6, 0.5], start=1):
        checkpoints.save(*run, step, figure)
    checkpoints.close()
    assert steps(tmp_path / "states") == [2, 4, 6, 7]
    assert read_state(tmp_path / "states", 4).record.figure == 0.8


def test_a_state_without_a_figure_of_its_own_has_the_latest(new_checkpoints: New, tmp_path: Path) -> None:
    run = make_run(num_steps=0)
    checkpoints = new_checkpoints(keep_last=9)
    checkpoints.save(*run, 1, 0.5)
    checkpoints.save(*run, 2, None)
    again = new_checkpoints(keep_last=9)
    again.restore(*run)
    again.save(*run, 3, None)
    assert [read_state(tmp_path / "states", step).record.figure for step in (1, 2, 3)] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("kind", ["adamw", "adamw8"])
def test_the_background_writes_the_same_bytes(new_checkpoints: New, tmp_path: Path, kind: str) -> None:
    """Training goes on while it writes: what is written is what was there when it was asked for."""
    found = []
    for asynchronous in (False, True):
        model, optimizer = make_run(kind)
        checkpoints = new_checkpoints(keep_last=9, asynchronous=asynchronous)
        for step in (1, 2, 3):
            checkpoints.save(model, optimizer, step, None)
            one_step(model, optimizer, step)
        checkpoints.close()
        found.append({name: data for name, data in files(tmp_path / "states").items() if name.endswith(".safetensors")})
        (tmp_path / "states").rename(tmp_path / f"states-{asynchronous}")
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 3


def test_the_background_copies_before_it_returns(new_checkpoints: New, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    real = states.commit

    def late(*arguments: Any) -> None:
        gate.wait(timeout=30)
        real(*arguments)

    monkeypatch.setattr("lianlu.train.checkpoint.storage.write_safetensors", _after(gate))
    monkeypatch.setattr("lianlu.train.checkpoint.keep.states.commit", late)
    monkeypatch.setattr("lianlu.train.checkpoint.keep.SAVE_SHARE", 1e9)
    run, wanted = make_run(), make_run()
    checkpoints = new_checkpoints(asynchronous=True, seconds=1e-9)
    checkpoints.save(*run, 1, None)
    assert not checkpoints.due(2)
    one_step(*run, number=5)
    gate.set()
    checkpoints.close()
    assert checkpoints.due(3)
    other = make_run(seed=2)
    assert new_checkpoints().restore(*other) == 1
    assert same(other, wanted)


def _after(gate: threading.Event) -> Callable[..., None]:
    from lianlu.train.checkpoint.storage import write_safetensors as real

    def write(*arguments: Any) -> None:
        gate.wait(timeout=30)
        real(*arguments)

    return write


# -- logs


def test_logs_are_cut_back_to_what_the_state_knows(new_checkpoints: New, tmp_path: Path) -> None:
    known, young, short = (tmp_path / name for name in ("known.jsonl", "young.jsonl", "short.jsonl"))
    known.write_text("one\n")
    short.write_text("one\ntwo\n")
    run, logs = make_run(num_steps=0), (known, young, short)
    new_checkpoints(logs=logs).save(*run, 1, None)
    known.write_text("one\ntwo\nthr")
    young.write_text("made after the state\n")
    short.write_text("tampered\n"[:4])
    new_checkpoints(logs=logs).restore(*run)
    assert known.read_text() == "one\n"
    assert not young.exists()
    assert short.read_text() == "tamp"


def test_without_a_state_everything_starts_anew(new_checkpoints: New, tmp_path: Path) -> None:
    log = tmp_path / "losses.jsonl"
    log.write_text("left over from a run that was killed before its first state\n")
    (tmp_path / "states" / ".step-00000003.tmp").mkdir(parents=True)
    (tmp_path / "states" / ".step-00000003.tmp" / "rank-00000.safetensors").write_text("half")
    assert new_checkpoints(logs=(log,)).restore(*make_run(num_steps=0)) == 0
    assert not log.exists()
    assert list((tmp_path / "states").iterdir()) == []


# -- damage


def damages() -> Iterator[Any]:
    def cut(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:-1])

    def spoil_header(file: Path) -> None:
        file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])

    yield pytest.param("rank-00000.safetensors", Path.unlink, id="file missing")
    yield pytest.param("rank-00000.safetensors", cut, id="file short")
    yield pytest.param("rank-00000.safetensors", lambda file: file.write_bytes(b""), id="file empty")
    yield pytest.param("rank-00000.safetensors", spoil_header, id="file of the right size, not to be read")
    yield pytest.param(RECORD, Path.unlink, id="record missing")
    yield pytest.param(RECORD, cut, id="record short")


@pytest.mark.parametrize(("name", "damage"), list(damages()))
def test_a_damaged_state_is_passed_over_with_a_warning(
    new_checkpoints: New, tmp_path: Path, warnings_said: list[str], name: str, damage: Callable[[Path], Any]
) -> None:
    log = tmp_path / "log"
    first, second = make_run(), make_run(num_steps=2)
    checkpoints = new_checkpoints(keep_last=2, logs=(log,))
    for step, run in ((1, first), (2, second)):
        log.write_text("line\n" * step)
        checkpoints.save(*run, step, None)
    damage(state_folder(tmp_path / "states", 2) / name)
    other, again = make_run(seed=3), new_checkpoints(keep_last=2, logs=(log,))
    assert again.restore(*other) == 1
    assert same(other, first)
    assert log.read_text() == "line\n"
    assert any("step-00000002" in said for said in warnings_said)
    again.save(*second, 2, None)
    third = make_run(seed=4)
    assert new_checkpoints().restore(*third) == 2
    assert same(third, second)


@pytest.mark.parametrize(("name", "damage"), list(damages()))
def test_with_nothing_whole_left_it_says_so(
    new_checkpoints: New, tmp_path: Path, warnings_said: list[str], name: str, damage: Callable[[Path], Any]
) -> None:
    new_checkpoints().save(*make_run(), 1, None)
    damage(state_folder(tmp_path / "states", 1) / name)
    with pytest.raises(DamagedError, match="step-00000001") as caught:
        new_checkpoints().restore(*make_run())
    assert str(tmp_path / "states") in caught.value.hint


# -- the disk refuses


class FullDisk:
    """From the n-th call on, whatever writes to the disk finds it full."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.calls, self.after = 0, -1
        self._folder = str(folder)
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (builtins, "open")):
            patch.setattr(owner, name, self._guard(getattr(owner, name), name))

    def _guard(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            mode = str(arguments[1] if len(arguments) > 1 else options.get("mode", "r"))
            if name != "open" or (str(arguments[0]).startswith(self._folder) and "w" in mode):
                self.calls += 1
                if 0 <= self.after < self.calls:
                    raise OSError(errno.ENOSPC, "No space left on device")
            opened = real(*arguments, **options)
            return FullFile(self, opened) if name == "open" and "w" in mode and self._is_ours(arguments[0]) else opened

        return guarded

    def _is_ours(self, path: Any) -> bool:
        return str(path).startswith(self._folder)

    def spend(self) -> None:
        self.calls += 1
        if 0 <= self.after < self.calls:
            raise OSError(errno.ENOSPC, "No space left on device")


class FullFile:
    """A file whose writes are counted."""

    def __init__(self, disk: FullDisk, file: Any) -> None:
        self._disk, self._file = disk, file

    def write(self, data: Any) -> int:
        self._disk.spend()
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_whenever_the_disk_is_full_the_last_complete_state_is_there(
    new_checkpoints: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    first, second = make_run(), make_run(num_steps=2)
    new_checkpoints().save(*first, 1, None)
    failures = named = 0
    for after in range(1000):
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, tmp_path)
            disk.after = after
            checkpoints = new_checkpoints(asynchronous=asynchronous)
            problem = None
            try:
                checkpoints.save(*second, 2, None)
                checkpoints.close()
            except ArtifactError as error:
                problem = error
        if problem is None:
            break
        assert "No space left" in problem.message
        assert "disk is full" in problem.hint
        failures += 1
        other = make_run(seed=4)
        step = new_checkpoints().restore(*other)
        assert same(other, {1: first, 2: second}[step])
        named += step == 2
        assert {path.name for path in (tmp_path / "states").iterdir()} - {"step-00000002"} == {"step-00000001"}
        states.remove(state_folder(tmp_path / "states", 2))
    assert failures > 40
    assert named <= 1, "only what follows the renaming may fail and leave the new state"
    assert new_checkpoints().restore(*other) == 2
    assert same(other, second)
    new_checkpoints().save(*second, 3, None)
    assert steps(tmp_path / "states") == [3]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_killed_at_any_call_of_a_save_a_complete_state_is_there(new_checkpoints: New, tmp_path: Path, asynchronous: bool) -> None:
    first, second = make_run(), make_run(num_steps=2)
    new_checkpoints().save(*first, 1, None)
    found = []
    for number in range(1000):
        child = os.fork()
        if child == 0:
            _save_until_killed(new_checkpoints(asynchronous=asynchronous), second, number)
        _, status = os.waitpid(child, 0)
        other = make_run(seed=4)
        step = new_checkpoints().restore(*other)
        found.append(step)
        assert same(other, {1: first, 2: second}[step])
        left = {path.name for path in (tmp_path / "states").iterdir()}
        assert f"step-{step:08d}" in left
        assert left <= {"step-00000001", "step-00000002"}
        if os.WIFEXITED(status):
            break
        if step == 2:
            states.remove(state_folder(tmp_path / "states", 2))
            new_checkpoints().save(*first, 1, None)
    assert os.WEXITSTATUS(status) == 0
    assert found.index(2) > 5
    assert set(found[found.index(2) :]) == {2}


def _save_until_killed(checkpoints: Checkpoints, run: Any, number: int) -> None:
    """In a child: its end comes with the n-th call that changes the disk."""
    try:
        calls = [0]

        def guard(real: Callable[..., Any]) -> Callable[..., Any]:
            def guarded(*arguments: Any, **options: Any) -> Any:
                calls[0] += 1
                if calls[0] > number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return guarded

        for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (os, "unlink"), (os, "rmdir")):
            setattr(owner, name, guard(getattr(owner, name)))
        checkpoints.save(*run, 2, None)
        checkpoints.close()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def test_a_full_disk_in_the_background_lets_the_training_go_on(
    new_checkpoints: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_said: list[str]
) -> None:
    checkpoints, run = new_checkpoints(asynchronous=True), make_run()
    checkpoints.save(*run, 1, None)
    with monkeypatch.context() as patch:
        checkpoints._settle(last=False)
        FullDisk(patch, tmp_path).after = 0
        checkpoints.save(*run, 2, None)
        checkpoints._saving.join()
    checkpoints.save(*run, 3, None)
    assert len(warnings_said) == 1
    assert "No space left" in warnings_said[0]
    assert "step 1" in warnings_said[0]
    checkpoints.close()
    assert steps(tmp_path / "states") == [3]


def test_other_errors_of_the_background_are_raised_at_the_next_call(
    new_checkpoints: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, run = new_checkpoints(asynchronous=True), make_run()

    def wrong(*_: Any) -> None:
        raise ZeroDivisionError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr("lianlu.train.checkpoint.storage.write_safetensors", wrong)
        checkpoints.save(*run, 1, None)
        checkpoints._saving.join()
    with pytest.raises(ZeroDivisionError):
        checkpoints.save(*run, 2, None)
    checkpoints.save(*run, 3, None)
    checkpoints.close()
    assert steps(tmp_path / "states") == [3]


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_background(
    new_checkpoints: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_said: list[str]
) -> None:
    checkpoints, run = new_checkpoints(asynchronous=True), make_run()
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        try:
            FullDisk(patch, tmp_path).after = 0
            checkpoints.save(*run, 1, None)
            raise KeyboardInterrupt
        finally:
            checkpoints.close()
    assert "No space left" in warnings_said[0]
