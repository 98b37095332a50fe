"""Sleep gives memory back, waking brings the same replies; nothing is computed or admitted in between."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lianlu.client.base import Sampling
from lianlu.core.errors import ConfigError, DataError, RequestError
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Request
from lianlu.engine.sleep import Source
from lianlu.model.load import load_model
from lianlu.model.packed import pack_linears
from lianlu.model.save import save_model

CONFIG = EngineConfig(max_tokens=256, block_size=8)
Open = Callable[..., Engine]


def request(prompt: Iterable[int], adapter: str = "", new: int = 8) -> Request:
    return Request(tuple(prompt), Sampling(max_tokens=new, logprobs=1), ignore_eos=True, adapter=adapter)


@pytest.fixture
def open_from(lab: Any) -> Open:
    """An engine on the model in a folder, as `open_engine` makes one, but for the tokenizer."""

    def opened(folder: Path, config: EngineConfig = CONFIG, draft: Path | None = None) -> Engine:
        def read() -> Any:
            model = load_model(folder)
            pack_linears(model)
            return model, None if draft is None else load_model(draft)

        source = Source(read, [folder] if draft is None else [folder, draft])
        model, small = source.read()
        engine: Engine = lab.engine(config, model, small)
        engine.source = source
        return engine

    return opened


@pytest.fixture
def folder(tmp_path: Path, lab: Any) -> Path:
    save_model(lab.build(), tmp_path / "model")
    return tmp_path / "model"


def test_replies_are_the_same_after_waking(lab: Any, open_from: Open, folder: Path, adapters: dict[str, Path]) -> None:
    engine = open_from(folder)
    for name in "ab":
        engine.adapters.load(name, adapters[name])
    wanted = [request(prompt, name) for prompt, name in zip(lab.prompts(4, seed=1), ("", "a", "b", "a"), strict=True)]
    before = lab.run(engine, wanted)
    for _ in range(2):
        engine.sleep()
        engine.wake()
        assert not engine.asleep
        after = lab.run(engine, wanted)
        assert [event.logprobs for event in after] == [event.logprobs for event in before]
        assert engine.adapters.names() == ("a", "b")


@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_what_proposes_tokens_comes_back_too(lab: Any, open_from: Open, folder: Path, kind: str) -> None:
    table = {"kind": kind} | ({"model": str(folder)} if kind == "draft" else {})
    config = EngineConfig.model_validate({"max_tokens": 256, "block_size": 8, "speculation": table})
    engine = open_from(folder, config, folder if kind == "draft" else None)
    prompt = (1, 2, 3, 4) * 6
    before = lab.run(engine, [request(prompt, new=30)])[0]
    engine.sleep()
    engine.wake()
    drafted = engine.stats().drafted_tokens
    assert lab.run(engine, [request(prompt, new=30)])[0].token_ids == before.token_ids
    assert engine.stats().drafted_tokens > drafted > 0


def test_sleep_lets_go_of_weights_keys_values_and_adapters(
    lab: Any, open_from: Open, folder: Path, adapters: dict[str, Path]
) -> None:
    engine = open_from(folder)
    engine.adapters.load("a", adapters["a"])
    lab.run(engine, [request([1, 2, 3], "a")])
    layer = engine.model.layers[0].attention.wqkv
    held = [weakref.ref(thing) for thing in (engine.model, engine.runner, layer, layer.updates["a"], *engine.runner.pools)]
    del layer
    engine.sleep()
    assert not any(ref() for ref in held)
    assert engine.model.config == lab.model.config
    assert engine.stats().cached_blocks == 0


def test_named_sessions_outlast_sleep_under_their_own_adapter(
    lab: Any, open_from: Open, folder: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    engine = open_from(folder, EngineConfig(max_tokens=256, block_size=8, sessions=tmp_path / "sessions"))
    for name in "ab":
        engine.adapters.load(name, adapters[name])
    prompt = tuple(range(1, 41))
    talk = replace(request(prompt, "a"), session="talk")
    before = lab.run(engine, [talk])[0]
    engine.sleep()
    engine.wake()
    assert lab.run(engine, [replace(request(prompt, "b"), session="chat")])[0].cached_tokens == 0
    assert lab.run(engine, [request(prompt, "a")])[0].cached_tokens == 0
    engine.sleep()
    engine.wake()
    after = lab.run(engine, [talk])[0]
    assert after.cached_tokens == 32
    assert after.logprobs == before.logprobs


def rss() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_memory_of_the_process_falls(lab: Any, open_from: Open, tmp_path: Path) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 10}
    save_model(lab.build(**shape), tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size
    engine = open_from(tmp_path / "model", EngineConfig(max_tokens=512))
    wanted = [request([1, 2, 3] * 30)]
    before = lab.run(engine, wanted)
    awake = rss()
    engine.sleep()
    asleep = rss()
    engine.wake()
    assert weights > 30e6
    assert awake - asleep > 0.8 * weights
    assert rss() - asleep > 0.8 * weights
    assert [event.logprobs for event in lab.run(engine, wanted)] == [event.logprobs for event in before]


def test_both_are_legal_twice_and_in_the_wrong_state(lab: Any, open_from: Open, folder: Path) -> None:
    engine = open_from(folder)
    engine.wake()
    engine.sleep()
    engine.sleep()
    assert engine.asleep
    engine.wake()
    engine.wake()
    assert lab.run(engine, [request([1, 2])])[0].finish_reason == "length"
    engine.sleep()
    engine.close()
    engine.close()


def test_nothing_is_served_while_asleep(open_from: Open, folder: Path, adapters: dict[str, Path]) -> None:
    engine = open_from(folder)
    engine.adapters.load("a", adapters["a"])
    engine.sleep()
    refused: list[Callable[[], object]] = [
        lambda: engine.check(request([1])),
        lambda: engine.submit(request([1], "a")),
        lambda: engine.prompt_logprobs([1, 2]),
        lambda: engine.adapters.load("b", adapters["b"]),
        lambda: engine.adapters.everywhere("a"),
    ]
    for job in refused:
        with pytest.raises(RequestError, match="asleep") as caught:
            job()
        assert caught.value.status == 503
        assert "wake" in caught.value.hint
    assert engine.step() == []
    assert engine.idle
    assert engine.stats().num_running == 0


def test_sleep_waits_for_nobody(lab: Any, open_from: Open, folder: Path) -> None:
    engine = open_from(folder)
    first, second = engine.submit(request([1, 2, 3])), engine.submit(request([4]))
    engine.step()
    with pytest.raises(RequestError, match="2 requests") as caught:
        engine.sleep()
    assert caught.value.status == 409
    assert not engine.asleep
    engine.cancel(first)
    while not engine.idle:
        engine.step()
    assert engine.cancel(second) is None
    engine.sleep()


def test_a_model_from_memory_cannot_sleep(lab: Any) -> None:
    engine = lab.engine()
    with pytest.raises(ConfigError, match="cannot sleep") as caught:
        engine.sleep()
    assert "open_engine" in caught.value.hint
    assert lab.run(engine, [request([1])])[0].finish_reason == "length"


def test_an_adapter_can_go_while_asleep(lab: Any, open_from: Open, folder: Path, adapters: dict[str, Path]) -> None:
    engine = open_from(folder)
    for name in "ab":
        engine.adapters.load(name, adapters[name])
    engine.sleep()
    engine.adapters.unload("a")
    assert engine.adapters.names() == ("b",)
    engine.wake()
    assert lab.run(engine, [request([1], "b")])[0].finish_reason == "length"
    engine.adapters.load("a", adapters["a"])


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_an_adapter_that_is_not_what_it_was_keeps_the_engine_asleep(
    lab: Any, open_from: Open, folder: Path, adapters: dict[str, Path], tmp_path: Path, how: str
) -> None:
    engine = open_from(folder)
    shutil.copytree(adapters["a"], tmp_path / "mine")
    engine.adapters.load("fine", adapters["b"])
    engine.adapters.load("mine", tmp_path / "mine")
    engine.sleep()
    shutil.rmtree(tmp_path / "mine")
    if how == "changed":
        shutil.copytree(adapters["other"], tmp_path / "mine")
    with pytest.raises(DataError, match="mine"):
        engine.wake()
    assert engine.asleep
    with pytest.raises(RequestError, match="asleep"):
        engine.submit(request([1], "fine"))
    engine.adapters.unload("mine")
    engine.wake()
    assert lab.run(engine, [request([1], "fine")])[0].finish_reason == "length"


@pytest.mark.parametrize("how", ["gone", "changed", "damaged"])
def test_files_that_are_not_what_they_were_keep_it_asleep(lab: Any, open_from: Open, folder: Path, how: str) -> None:
    engine, weights = open_from(folder), folder / "model.safetensors"
    before = lab.run(engine, [request([1, 2, 3])])
    stamp, raw = weights.stat(), weights.read_bytes()
    engine.sleep()
    if how == "gone":
        weights.unlink()
    elif how == "changed":
        save_file({name: tensor * 2 for name, tensor in load_file(weights).items()}, weights)
    else:
        weights.write_bytes(raw[:-5])
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            engine.wake()
        assert "model" in caught.value.message
        assert engine.asleep
    weights.write_bytes(raw)
    os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    engine.wake()
    assert [event.logprobs for event in lab.run(engine, [request([1, 2, 3])])] == [event.logprobs for event in before]


def test_in_the_background_late_requests_are_refused_and_early_ones_finish(open_from: Open, folder: Path) -> None:
    background = BackgroundEngine(open_from(folder))
    assert background.submit(request([1, 2])).result().finish_reason == "length"
    entered, let_go = threading.Event(), threading.Event()

    def sleep() -> None:
        entered.set()
        let_go.wait()
        background.engine.sleep()

    thread = threading.Thread(target=lambda: background.call(sleep))
    thread.start()
    entered.wait()
    late = background.submit(request([3]))
    let_go.set()
    thread.join()
    event = late.result()
    assert isinstance(event.error, RequestError)
    assert event.error.status == 503
    with pytest.raises(RequestError, match="asleep"):
        background.submit(request([3]))
    background.call(background.engine.wake)
    assert background.submit(request([3])).result().finish_reason == "length"
    background.call(background.engine.sleep)
    background.close()
