"""Named sessions: a conversation goes on after a restart as if there had been none, and trouble on disk never reaches a reply."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.client.base import Sampling
from lianlu.core.errors import ArtifactError, ConfigError, RequestError
from lianlu.engine import session_files, sessions
from lianlu.engine.blocks import chain
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.runner import Runner
from lianlu.engine.sequence import Event, Request
from lianlu.engine.sessions import Sessions, fingerprint
from lianlu.model.decoder import Decoder

CODECS, BLOCK = ("auto", "bfloat16", "int8", "int4"), 8
SIZES = {"max_tokens": 512, "block_size": BLOCK, "max_batch_tokens": 64, "max_running": 4}


def config(folder: Path, **changes: object) -> EngineConfig:
    return EngineConfig.model_validate({**SIZES, "sessions": folder, **changes})


def turn(prompt: Sequence[int], session: str = "talk", new: int = 12, **changes: str) -> Request:
    return Request(tuple(prompt), Sampling(max_tokens=new, logprobs=3), True, session=session, **changes)


def once(lab: Any, settings_: EngineConfig, requests: Sequence[Request], model: Decoder | None = None) -> list[Event]:
    """Replies of an engine that lives for these requests only."""
    engine = lab.engine(settings_, model)
    try:
        return lab.run(engine, requests)  # type: ignore[no-any-return]
    finally:
        engine.close()


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/blocks/*.kv"))


def manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/sessions/*.json"))


def digests(engine: Engine, prompt: tuple[int, ...]) -> list[bytes]:
    """Those of the full blocks of a prompt."""
    found = [engine._root(turn(prompt))]
    for begin in range(0, len(prompt) - BLOCK + 1, BLOCK):
        found.append(chain(found[-1], prompt[begin : begin + BLOCK]))
    return found[1:]


def talk(lab: Any, settings_: EngineConfig, num_turns: int, restarts: bool) -> list[Event]:
    """A conversation in which each prompt is all that was said, and a little more."""
    events: list[Event] = []
    said: tuple[int, ...] = tuple(range(1, 30))
    engine = lab.engine(settings_)
    for number in range(num_turns):
        (event,) = lab.run(engine, [turn(said)])
        events.append(event)
        said += (*event.token_ids, 40 + number, 41, 42)
        if restarts:
            engine.close()
            engine = lab.engine(settings_)
    engine.close()
    return events


@pytest.mark.parametrize("kv", CODECS)
def test_a_restart_changes_no_number(lab: Any, tmp_path: Path, kv: str) -> None:
    """Neither a token nor a bit of a logprob; and the keys and values do come from disk."""
    without = talk(lab, config(tmp_path / "one", kv=kv), 4, restarts=False)
    with_restarts = talk(lab, config(tmp_path / "two", kv=kv), 4, restarts=True)
    for one, other in zip(without, with_restarts, strict=True):
        assert other.token_ids == one.token_ids
        assert other.logprobs == one.logprobs
    assert [event.cached_tokens for event in with_restarts[1:]] == [event.cached_tokens for event in without[1:]]
    assert with_restarts[-1].cached_tokens > 60


def test_blocks_that_had_to_make_way_come_back_without_a_restart(lab: Any, tmp_path: Path) -> None:
    engine = lab.engine(config(tmp_path, max_tokens=128))
    (first,) = lab.run(engine, [turn(range(1, 60))])
    engine.sessions.flush()
    lab.run(engine, [turn(prompt, session="") for prompt in lab.prompts(12, seed=3, longest=90)])
    assert len(engine.pool.match(digests(engine, tuple(range(1, 60))))) < 7
    (again,) = lab.run(engine, [turn((*range(1, 60), *first.token_ids))])
    assert again.cached_tokens == 64
    engine.close()


def test_sessions_that_begin_alike_share_their_records(lab: Any, tmp_path: Path) -> None:
    head = tuple(range(1, 33))
    once(lab, config(tmp_path), [turn((*head, 50), "a", 1), turn((*head, 51), "b", 1)])
    assert len(manifests(tmp_path)) == 2
    assert len(records(tmp_path)) == 4
    once(lab, config(tmp_path), [turn((*head, 52), "c", 1, salt="another")])
    assert len(records(tmp_path)) == 8


def test_nothing_is_shared_over_salts_and_codecs(lab: Any, tmp_path: Path) -> None:
    prompt = tuple(range(1, 40))
    once(lab, config(tmp_path), [turn(prompt)])
    assert once(lab, config(tmp_path), [turn(prompt, salt="other")])[0].cached_tokens == 0
    assert once(lab, config(tmp_path, kv="int8"), [turn(prompt)])[0].cached_tokens == 0
    assert once(lab, config(tmp_path), [turn(prompt)])[0].cached_tokens == 32


def test_other_weights_see_nothing(lab: Any, tmp_path: Path) -> None:
    prompt, other = tuple(range(1, 40)), lab.build(seed=3)
    once(lab, config(tmp_path), [turn(prompt)])
    with torch.no_grad():
        other.layers[1].mlp.down.weight[3, 5] += 0.01
    assert once(lab, config(tmp_path), [turn(prompt)], other)[0].cached_tokens == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_the_fingerprint_is_the_model_and_the_form(lab: Any) -> None:
    def of(model: Decoder, block_size: int = 8, kv: Any = "auto") -> bytes:
        return fingerprint(Runner(model, 2, block_size, 8, kv=kv))

    base, changed = of(lab.model), lab.build(seed=3)
    assert of(changed) == base
    with torch.no_grad():
        changed.embed_tokens.weight[61, 3] += 0.5
    others = [of(changed), of(lab.model, 4), of(lab.model, kv="int8"), of(lab.model, kv="bfloat16"), of(lab.build(seed=4))]
    others += [of(lab.build(seed=3, rope_theta=5e5)), of(lab.build(seed=3, dtype=torch.bfloat16))]
    assert len({base, *others}) == 8


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_long(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def spoil_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def spoil_version(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8] += 1
    path.write_bytes(content)


def spoil_garbage(path: Path) -> None:
    path.write_bytes(b"\x80\x04garbage" * 1000)


def spoil_other_block(path: Path) -> None:
    shutil.copy(next(other for other in path.parent.iterdir() if other != path), path)


def spoil_other_model(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[24] ^= 255
    path.write_bytes(content)


SPOILS = {
    spoil_cut: "cut off",
    spoil_empty: "no record",
    spoil_long: "too long",
    spoil_bit: "checksum",
    spoil_version: "format 2",
    spoil_garbage: "no record",
    spoil_other_block: "another text",
    spoil_other_model: "another model",
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_damaged_record_is_removed_and_never_used(
    lab: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any
) -> None:
    prompt = tuple(range(1, 62))
    once(lab, config(tmp_path), [turn(prompt, new=1)])
    expected = once(lab, config(tmp_path / "elsewhere"), [turn(prompt)])[0]
    third = digests(lab.engine(config(tmp_path)), prompt)[2].hex()
    (path,) = [each for each in records(tmp_path) if each.stem == third]
    spoil(path)
    event = once(lab, config(tmp_path), [turn(prompt)])[0]
    assert event.cached_tokens == 2 * BLOCK
    assert (event.token_ids, event.logprobs) == (expected.token_ids, expected.logprobs)
    told = capsys.readouterr().err
    assert told.count("warning:") == 1
    assert SPOILS[spoil] in " ".join(told.split())
    assert path.exists(), "the block is kept anew at the end"
    assert once(lab, config(tmp_path), [turn(prompt)])[0].cached_tokens == 7 * BLOCK
    assert not capsys.readouterr().err


def test_a_damaged_manifest_is_removed(lab: Any, tmp_path: Path) -> None:
    once(lab, config(tmp_path), [turn(range(1, 30), "good"), turn(range(2, 30), "bad"), turn(range(3, 30), "sly")])
    paths = {json.loads(path.read_text())["name"]: path for path in manifests(tmp_path)}
    paths["bad"].write_text('{"name": "bad", "tokens"')
    outside = tmp_path / "precious.kv"
    outside.write_text("mine")
    paths["sly"].write_text(json.dumps({**json.loads(paths["sly"].read_text()), "digests": ["../../precious"]}))
    engine = lab.engine(config(tmp_path))
    assert [info.name for info in engine.sessions.list()] == ["good"]
    engine.sessions.delete("good")
    engine.close()
    assert manifests(tmp_path) == records(tmp_path) == []
    assert outside.read_text() == "mine"


def test_a_full_disk_is_a_warning(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    expected = once(lab, config(tmp_path / "elsewhere"), [turn(range(1, 40))])[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        engine = lab.engine(config(tmp_path))
        for _ in range(3):
            (event,) = lab.run(engine, [turn(range(1, 40))])
            engine.sessions.flush()
            assert event.finish_reason == "length"
            assert event.logprobs == expected.logprobs
        engine.close()
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("warning:") == 1
    assert "No space left" in told
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "elsewhere" not in path.parts]
    assert once(lab, config(tmp_path), [turn(range(1, 40))])[0].cached_tokens == 0
    assert once(lab, config(tmp_path), [turn(range(1, 40))])[0].cached_tokens == 32


def test_a_record_that_cannot_be_read_is_computed_again(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    expected = once(lab, config(tmp_path), [turn(range(1, 40))])[0]
    monkeypatch.setattr(session_files.SessionFiles, "read", broken)
    event = once(lab, config(tmp_path), [turn(range(1, 40))])[0]
    assert event.cached_tokens == 0
    assert event.logprobs == expected.logprobs
    assert "Input/output error" in " ".join(capsys.readouterr().err.split())
    assert len(records(tmp_path)) == 6


def test_the_sessions_unused_for_longest_go_first(lab: Any, tmp_path: Path) -> None:
    once(lab, config(tmp_path), [turn(range(start, start + 30), f"s{start}", 1) for start in (1, 2, 3)])
    size = records(tmp_path)[0].stat().st_size
    for path in manifests(tmp_path):
        name = json.loads(path.read_text())["name"]
        os.utime(path, (1000 + int(name[1:]), 1000 + int(name[1:])))
    engine = lab.engine(config(tmp_path, max_sessions_bytes=10 * size))
    lab.run(engine, [turn(range(1, 31), "s1", 1)])
    engine.sessions.flush()
    lab.run(engine, [turn(range(20, 50), "s20", 1)])
    engine.sessions.flush()
    assert {info.name for info in engine.sessions.list()} == {"s20", "s1", "s3"}
    lab.run(engine, [turn(range(21, 51), "s21", 1)])
    engine.sessions.flush()
    assert [info.name for info in engine.sessions.list()] == ["s21", "s20", "s1"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 10 * size
    assert len(records(tmp_path)) == 9
    engine.close()


def test_a_session_larger_than_the_quota_is_kept_in_part(lab: Any, tmp_path: Path) -> None:
    once(lab, config(tmp_path), [turn(range(1, 9), "probe", 2)])
    size = records(tmp_path)[0].stat().st_size
    shutil.rmtree(tmp_path)
    once(lab, config(tmp_path, max_sessions_bytes=3 * size), [turn(range(1, 62))])
    assert 1 <= len(records(tmp_path)) <= 3
    found = once(lab, config(tmp_path, max_sessions_bytes=3 * size), [turn(range(1, 62))])[0]
    assert found.cached_tokens == len(records(tmp_path)) * BLOCK


def test_sessions_are_listed_and_deleted_by_whose_they_are(lab: Any, tmp_path: Path) -> None:
    engine = lab.engine(config(tmp_path))
    lab.run(engine, [turn(range(1, 30), "a", 5), turn(range(1, 30), "a", 5, salt="key"), turn(range(1, 4), "tiny", 2)])
    engine.sessions.flush()
    infos = {info.name: info for info in engine.sessions.list()}
    assert {name: info.num_tokens for name, info in infos.items()} == {"a": 34, "tiny": 5}
    assert infos["a"].num_bytes == 4 * records(tmp_path)[0].stat().st_size
    assert infos["tiny"].num_bytes == 0
    assert [info.name for info in engine.sessions.list("key")] == ["a"]
    assert "key" not in "".join(path.read_text() for path in manifests(tmp_path))
    engine.sessions.delete("a")
    with pytest.raises(RequestError, match="no session a") as caught:
        engine.sessions.delete("a")
    assert caught.value.status == 404
    engine.sessions.flush()
    assert [info.name for info in engine.sessions.list()] == ["tiny"]
    assert [info.name for info in engine.sessions.list("key")] == ["a"]
    assert len(records(tmp_path)) == 4
    engine.close()


@pytest.mark.parametrize("name", ["../up", "a/b", "..\\x", "with space", "a\0", "x" * 129, "\N{SNOWMAN}", "line\n"])
def test_names_that_are_none_are_refused(lab: Any, tmp_path: Path, name: str) -> None:
    engine = lab.engine(config(tmp_path))
    for attempt in (lambda: engine.submit(turn((1, 2), name)), lambda: engine.sessions.delete(name)):
        with pytest.raises(RequestError, match="cannot be the name") as caught:
            attempt()
        assert caught.value.status == 400
    engine.close()


@pytest.mark.parametrize("name", [".", "..", "a" * 128, "user@host:1_2-3.x"])
def test_odd_names_stay_inside_the_folder(lab: Any, tmp_path: Path, name: str) -> None:
    once(lab, config(tmp_path / "in"), [turn(range(1, 20), name, 1)])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert once(lab, config(tmp_path / "in"), [turn(range(1, 20), name, 1)])[0].cached_tokens == 16


def test_an_engine_without_sessions_says_so(lab: Any) -> None:
    with pytest.raises(RequestError, match="keeps no sessions") as caught:
        lab.engine().submit(turn((1, 2, 3)))
    assert caught.value.status == 400
    assert "sessions" in caught.value.hint


def test_settings_that_cannot_work_are_refused(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prefix cache"):
        lab.engine(config(tmp_path, prefix_cache=False))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept") as caught:
        lab.engine(config(tmp_path / "file"))
    assert "folder" in caught.value.hint


def test_a_folder_with_other_things_in_it_is_left_as_it_is(lab: Any, tmp_path: Path) -> None:
    mine = [tmp_path / name for name in ("sessions/mine.json", "project/blocks/a.kv", "project/sessions/b.json")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    once(lab, config(tmp_path, max_sessions_bytes=1), [turn(range(1, 30))])
    assert all(path.read_text() == "precious" for path in mine)
    assert records(tmp_path) == mine[1:2]


def test_what_a_killed_process_left_is_removed_in_time(lab: Any, tmp_path: Path) -> None:
    once(lab, config(tmp_path), [turn(range(1, 30))])
    old, young = (records(tmp_path)[0].parent / f".{name}.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (1000, 1000))
    once(lab, config(tmp_path), [turn(range(1, 30))])
    assert not old.exists()
    assert young.exists()


def test_a_pool_too_small_for_all_takes_the_beginning(lab: Any, tmp_path: Path) -> None:
    prompt = tuple(range(1, 63))
    once(lab, config(tmp_path), [turn(prompt, new=2)])
    engine = lab.engine(config(tmp_path, max_tokens=96))
    running = engine.submit(turn(range(30, 62), "", 30))
    engine.step()
    engine.submit(turn(prompt, new=2))
    engine.scheduler.audit()
    assert engine.pool.num_available == 8
    assert engine.cancel(running) is not None
    found = [event for _ in range(40) for event in engine.step()]
    assert found[-1].cached_tokens >= 7 * BLOCK
    engine.close()


def test_a_reply_that_is_stopped_half_way_is_kept_as_far_as_it_got(lab: Any, tmp_path: Path) -> None:
    engine = lab.engine(config(tmp_path))
    number, waiting = engine.submit(turn(range(1, 60), "talk", 50)), engine.submit(turn(range(2, 60), "waits", 50))
    for _ in range(6):
        engine.step()
    engine.scheduler._preempt(engine.scheduler.running[-1])
    assert engine.cancel(number) is not None
    assert engine.cancel(waiting) is not None
    engine.scheduler.audit()
    assert engine.pool.num_used == 0
    engine.close()
    assert [info.name for info in lab.engine(config(tmp_path)).sessions.list()] == ["talk"]
    assert once(lab, config(tmp_path), [turn(range(1, 60), "talk", 2)])[0].cached_tokens == 56


def test_a_poisoned_request_leaves_nothing_on_disk(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lab.engine(config(tmp_path))
    step = engine.runner.step
    monkeypatch.setattr(engine.runner, "step", lambda chunks: step(chunks) * torch.nan)
    (event,) = lab.run(engine, [turn(range(1, 60))])
    assert event.finish_reason == "error"
    engine.close()
    assert manifests(tmp_path) == records(tmp_path) == []


def test_two_engines_in_one_folder_do_not_disturb_each_other(lab: Any, tmp_path: Path) -> None:
    """Both write, evict and read the same records at the same time; replies stay what they are."""
    prompts = [tuple((start + i) % 60 + 1 for i in range(40)) for start in (0, 0, 7, 20)]
    expected = once(lab, EngineConfig(max_tokens=512, block_size=BLOCK), [turn(prompt, "") for prompt in prompts])
    size = 72 + BLOCK * 256
    failures: list[BaseException] = []

    def work(engine: Engine, me: int) -> None:
        try:
            for number in range(12):
                which = (number + me) % len(prompts)
                (event,) = lab.run(engine, [turn(prompts[which], f"s{which}")])
                assert event.logprobs == expected[which].logprobs
                if number % 5 == 4:
                    with contextlib.suppress(RequestError):
                        engine.sessions.delete(f"s{which}")  # type: ignore[union-attr]
        except BaseException as error:
            failures.append(error)

    engines = [lab.engine(config(tmp_path, max_sessions_bytes=9 * size)) for _ in range(2)]
    threads = [threading.Thread(target=work, args=(engine, me)) for me, engine in enumerate(engines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.close()
    assert not failures
    assert not list(tmp_path.rglob("*.tmp"))
    found = once(lab, config(tmp_path), [turn(prompt, f"s{which}") for which, prompt in enumerate(prompts)])
    assert [event.logprobs for event in found] == [event.logprobs for event in expected]


turns = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1), st.integers(1, 50), st.integers(1, 10), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=8, deadline=None)
@given(turns, st.sampled_from(CODECS), st.integers(1, 40))
def test_whatever_is_kept_and_restored_replies_are_what_they_are(
    lab: Any, tmp_path_factory: pytest.TempPathFactory, plan: list[Any], kv: str, room: int
) -> None:
    """Random sessions, restarts, quotas and losses of files."""
    folder = tmp_path_factory.mktemp("sessions")
    with_disk = config(folder, kv=kv, max_tokens=128, max_sessions_bytes=room * 1000)
    plain = config(folder, kv=kv, sessions=None)
    engine = lab.engine(with_disk)
    for number, (name, family, size, new, restart) in enumerate(plan):
        request = turn([(i * (family + 3)) % 60 + 1 for i in range(size)], name, new)
        (found,) = lab.run(engine, [request])
        (expected,) = lab.run(lab.engine(plain), [turn(request.prompt, "", new)])
        assert found.token_ids == expected.token_ids
        assert found.logprobs == expected.logprobs
        if restart:
            engine.close()
            for lost in records(folder)[number % 2 :: 3]:
                lost.unlink()
            engine = lab.engine(with_disk)
    engine.close()


def test_a_disk_that_does_not_take_records_leaves_no_thread(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ArtifactError("cannot write")

    monkeypatch.setattr(session_files.SessionFiles, "write", refuse)
    engine = lab.engine(config(tmp_path))
    lab.run(engine, [turn(range(1, 40))])
    engine.close()
    engine.close()
    assert isinstance(engine.sessions, Sessions)
    assert not engine.sessions._pending
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lianlu-sessions")]


def test_waiting_copies_are_bounded(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_PENDING_BYTES", 3 * (72 + BLOCK * 256))
    once(lab, config(tmp_path), [turn(range(1, 60))])
    assert len(records(tmp_path)) == 3
