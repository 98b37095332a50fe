"""Named adapters of an engine: each request as if its adapter were the model, loaded and unloaded while others run."""

from __future__ import annotations

import json
import shutil
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lianlu.client.base import Sampling
from lianlu.core.errors import DataError, RequestError
from lianlu.engine.adapters import content_digest
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Engine
from lianlu.engine.sequence import Event, Request
from lianlu.model.decoder import Decoder
from lianlu.model.lora import load_adapter, merge_adapter, read_adapter
from lianlu.model.multi_lora import MultiLoraLinear
from lianlu.model.packed import pack_linears
from lianlu.model.quantized import quantize_linears

OPEN = EngineConfig(max_tokens=256, prefix_cache=False)
KINDS = ("plain", "packed", "int8", "int4", "bfloat16")
NAMES = ("", "a", "b", "c")


def request(prompt: Iterable[int], adapter: str = "", new: int = 8, **wanted: object) -> Request:
    return Request(tuple(prompt), Sampling(max_tokens=new, **wanted), ignore_eos=True, adapter=adapter)  # type: ignore[arg-type]


def model_of(lab: Any, kind: str) -> Decoder:
    model: Decoder = lab.build(dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32)
    if kind in ("int8", "int4"):
        quantize_linears(model, kind)
    if kind != "plain":
        pack_linears(model)
    return model


def engine_with(lab: Any, folders: dict[str, Path], names: Iterable[str], kind: str = "packed", **fields: object) -> Engine:
    config = EngineConfig.model_validate({"max_tokens": 256, "block_size": 8, **fields})
    target: Engine = lab.engine(config, model_of(lab, kind))
    for name in names:
        target.adapters.load(name, folders[name])
    return target


@pytest.fixture(scope="module")
def alone(lab: Any, adapters: dict[str, Path]) -> Any:
    """What a request gives by itself, on an engine with no more than its own adapter."""
    engines = {
        (kind, name): engine_with(lab, adapters, [name] if name else [], kind, prefix_cache=False)
        for kind in KINDS
        for name in NAMES
    }
    return lambda kind, one: lab.run(engines[kind, one.adapter], [one])[0]


schedules = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "block_size": st.sampled_from([4, 8, 32]),
        "max_batch_tokens": st.integers(4, 40),
        "max_running": st.integers(1, 6),
        "prefix_cache": st.booleans(),
        "speculation": st.sampled_from([None, None, {"kind": "ngram"}]),
        "arrivals": st.lists(
            st.tuples(
                st.sampled_from(NAMES),
                st.integers(0, 4),
                st.integers(0, 1),
                st.integers(1, 50),
                st.integers(0, 20),
                st.integers(1, 12),
                st.sampled_from([0.0, 0.0, 1.2]),
            ),
            min_size=2,
            max_size=8,
        ),
    }
)


@settings(max_examples=30, deadline=None)
@given(schedules)
def test_any_mix_of_adapters_gives_each_request_what_it_gets_alone(
    lab: Any, adapters: dict[str, Path], alone: Any, case: dict[str, Any]
) -> None:
    """Chunks, preemption, prefix hits and proposals among requests under several adapters and none: to the bit."""
    fields = {name: case[name] for name in ("block_size", "max_batch_tokens", "max_running", "prefix_cache", "speculation")}
    target = engine_with(lab, adapters, NAMES[1:], case["kind"], **fields, max_tokens=128)
    wanted: list[Request] = []
    news: dict[int, list[Event]] = {}
    for number, (adapter, wait, family, shared, own, new, temperature) in enumerate(case["arrivals"]):
        for _ in range(wait):
            tick(target, news)
        prompt = (*lab.prompts(2, seed=9, longest=61)[family][:shared], *lab.prompts(1, seed=number, longest=21)[0][:own])
        wanted.append(request(prompt, adapter, new, temperature=temperature, top_p=0.9, seed=number, logprobs=2))
        news[target.submit(wanted[-1])] = []
    while not target.idle:
        tick(target, news)
    for one, events in zip(wanted, news.values(), strict=True):
        event, reference = Event.joined(events), alone(case["kind"], one)
        assert event.token_ids == reference.token_ids
        assert event.logprobs == reference.logprobs


def tick(target: Engine, news: dict[int, list[Event]]) -> None:
    for event in target.step():
        news[event.request_id].append(event)
    target.scheduler.audit()


def test_preemption_and_prefix_hits_do_happen_in_such_schedules(lab: Any, adapters: dict[str, Path], alone: Any) -> None:
    target = engine_with(lab, adapters, NAMES[1:], block_size=4, max_tokens=128, max_batch_tokens=24, max_running=5)
    begin = lab.prompts(1, seed=1, longest=40)[0][:20]
    wanted = [request((*begin, number), NAMES[number % 4], 40, logprobs=0) for number in range(1, 9)]
    found = lab.run(target, wanted)
    assert target.stats().num_preempted > 0
    assert sum(event.cached_tokens for event in found) > 0
    for one, event in zip(wanted, found, strict=True):
        assert event.logprobs == alone("packed", one).logprobs


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_is_the_merged_model_s(lab: Any, adapters: dict[str, Path], name: str) -> None:
    merged = lab.build()
    if name:
        load_adapter(merged, adapters[name])
        merge_adapter(merged)
    wanted = [request(prompt, name, 10, logprobs=0) for prompt in lab.prompts(5, seed=3)]
    found = lab.run(engine_with(lab, adapters, NAMES[1:]), wanted)
    expected = lab.run(lab.engine(OPEN, merged), [request(one.prompt, "", 10, logprobs=0) for one in wanted])
    for mine, reference in zip(found, expected, strict=True):
        assert mine.token_ids == reference.token_ids
        own, theirs = ([item.logprob for item in event.logprobs] for event in (mine, reference))
        assert own == pytest.approx(theirs, abs=1e-4)


def test_scores_of_a_text_are_those_of_its_adapter(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine_with(lab, adapters, NAMES[1:])
    one = request(lab.prompts(1, seed=4)[0], "c", 12, logprobs=0)
    event = lab.run(target, [one])[0]
    scored = target.prompt_logprobs((*one.prompt, *event.token_ids), adapter="c")[-12:]
    assert [item.logprob for item in scored if item] == [item.logprob for item in event.logprobs]
    plain = target.prompt_logprobs((*one.prompt, *event.token_ids))[-12:]
    assert [item.logprob for item in plain if item] != [item.logprob for item in event.logprobs]
    with pytest.raises(RequestError, match="no adapter"):
        target.prompt_logprobs(one.prompt, adapter="x")


def test_equal_prompts_share_blocks_under_equal_adapters_only(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine_with(lab, adapters, "ab")
    prompt = lab.prompts(1, seed=5, longest=60)[0] * 2
    rounds = [lab.run(target, [request(prompt, name)])[0].cached_tokens for name in ("", "a", "b", "", "a", "b")]
    assert rounds[:3] == [0, 0, 0]
    assert min(rounds[3:]) > 0
    target.adapters.load("twin", adapters["a"])
    assert lab.run(target, [request(prompt, "twin")])[0].cached_tokens == rounds[4]


def test_a_name_that_means_another_adapter_never_meets_old_blocks(lab: Any, adapters: dict[str, Path], alone: Any) -> None:
    target = engine_with(lab, adapters, "a")
    one = request(lab.prompts(1, seed=5, longest=60)[0] * 2, "a", logprobs=0)
    first = lab.run(target, [one])[0]
    target.adapters.unload("a")
    target.adapters.load("a", adapters["b"])
    second = lab.run(target, [one])[0]
    assert second.cached_tokens == 0
    assert second.logprobs == alone("packed", request(one.prompt, "b", logprobs=0)).logprobs != first.logprobs
    target.adapters.unload("a")
    target.adapters.load("a", adapters["a"])
    third = lab.run(target, [one])[0]
    assert third.cached_tokens > 0
    assert third.logprobs == first.logprobs


def test_load_and_unload_while_requests_run(lab: Any, adapters: dict[str, Path], alone: Any) -> None:
    target = engine_with(lab, adapters, "ab")
    running = [request(prompt, name, 30, logprobs=0) for prompt, name in zip(lab.prompts(3, seed=6), ("", "a", "a"), strict=True)]
    news: dict[int, list[Event]] = {target.submit(one): [] for one in running}
    for _ in range(5):
        tick(target, news)
    target.adapters.unload("b")
    target.adapters.load("c", adapters["c"])
    late = request(lab.prompts(1, seed=7)[0], "c", 5, logprobs=0)
    news[target.submit(late)] = []
    for _ in range(3):
        tick(target, news)
    with pytest.raises(RequestError, match="2 requests") as caught:
        target.adapters.unload("a")
    assert caught.value.status == 409
    while not target.idle:
        tick(target, news)
    target.adapters.unload("a")
    for one, events in zip([*running, late], news.values(), strict=True):
        assert Event.joined(events).logprobs == alone("packed", one).logprobs
    assert target.adapters.names() == ("c",)


def test_waiting_and_preempted_requests_use_their_adapter_too(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine_with(lab, adapters, "ab", max_running=1)
    first, second = target.submit(request([1, 2], "a", 4)), target.submit(request([3], "b", 4))
    target.step()
    with pytest.raises(RequestError, match="1 requests"):
        target.adapters.unload("b")
    target.cancel(second)
    target.adapters.unload("b")
    target.cancel(first)
    target.adapters.unload("a")


def test_an_unknown_adapter_is_refused_with_the_known_ones(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine_with(lab, adapters, "ab")
    with pytest.raises(RequestError, match="'x'") as caught:
        target.submit(request([1], "x"))
    assert caught.value.status == 404
    assert "a, b" in caught.value.hint
    with pytest.raises(RequestError, match="no adapter") as caught:
        lab.engine().check(request([1], "x"))
    assert "load one" in caught.value.hint
    for ask in (target.adapters.digest, target.adapters.path, target.adapters.unload):
        with pytest.raises(RequestError) as caught:
            ask("x")
        assert caught.value.status == 404


@pytest.mark.parametrize("name", ["", " ", "-a", ".", "..", "a/b", "a b", "a\n", "\u00e9", "a" * 65, "../a", "a:b"])
def test_names_that_no_adapter_can_have(lab: Any, adapters: dict[str, Path], name: str) -> None:
    target = engine_with(lab, adapters, "")
    with pytest.raises(RequestError, match="cannot be the name") as caught:
        target.adapters.load(name, adapters["a"])
    assert caught.value.status == 400
    assert target.adapters.names() == ()


def test_a_taken_name_is_refused(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine_with(lab, adapters, "a")
    with pytest.raises(RequestError, match="already") as caught:
        target.adapters.load("a", adapters["b"])
    assert caught.value.status == 409
    assert target.adapters.path("a") == adapters["a"]


def broken(folder: Path, how: str) -> None:
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    table, tensors = json.loads(config.read_text()), load_file(weights)
    name = next(iter(tensors))
    if how == "dora":
        config.write_text(json.dumps(table | {"use_dora": True}))
    elif how == "no config":
        config.unlink()
    elif how == "no json":
        config.write_text("{")
    elif how == "no weights":
        weights.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif how == "half":
        save_file({key: value for key, value in tensors.items() if key != name}, weights)
    elif how == "shape":
        save_file(tensors | {name: torch.zeros(3, 3)}, weights)
    elif how == "layer":
        save_file(tensors | {name.replace("layers.0", "layers.9"): tensors[name].clone()}, weights)
    else:
        save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, weights)


HOWS = ("dora", "no config", "no json", "no weights", "cut", "half", "shape", "layer", "nan")


@pytest.mark.parametrize("how", HOWS)
def test_a_broken_folder_leaves_everything_as_it_was(lab: Any, adapters: dict[str, Path], tmp_path: Path, how: str) -> None:
    shutil.copytree(adapters["c"], tmp_path / "c")
    broken(tmp_path / "c", how)
    target = engine_with(lab, adapters, "b")
    kinds = {name: type(module) for name, module in target.model.named_modules()}
    with pytest.raises(DataError) as caught:
        target.adapters.load("c", tmp_path / "c")
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint
    assert target.adapters.names() == ("b",)
    assert {name: type(module) for name, module in target.model.named_modules()} == kinds
    target.adapters.load("c", adapters["c"])


def test_an_unloaded_adapter_is_gone_from_memory(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine_with(lab, adapters, "ac")
    lab.run(target, [request([1, 2, 3], "a"), request([4], "c")])
    kept = [
        weakref.ref(module.updates["a"])
        for module in target.model.modules()
        if isinstance(module, MultiLoraLinear) and "a" in module.updates
    ]
    target.adapters.unload("a")
    assert len(kept) == 4 * target.model.config.num_hidden_layers
    assert not any(ref() for ref in kept)
    target.adapters.unload("c")
    assert not any(isinstance(module, MultiLoraLinear) for module in target.model.modules())


def test_the_digest_is_of_the_content(lab: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    target = engine_with(lab, adapters, NAMES[1:])
    assert len({target.adapters.digest(name) for name in "abc"}) == 3
    shutil.copytree(adapters["a"], tmp_path / "again")
    target.adapters.load("again", tmp_path / "again")
    assert target.adapters.digest("again") == target.adapters.digest("a")
    config = tmp_path / "again" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 9}))
    assert content_digest(read_adapter(target.model.config, tmp_path / "again")) != target.adapters.digest("a")


def test_other_threads_load_while_the_engine_computes(lab: Any, adapters: dict[str, Path], alone: Any) -> None:
    background = BackgroundEngine(engine_with(lab, adapters, "a", max_running=8))
    names = background.engine.adapters
    long = [
        request(prompt, name, 60, logprobs=0) for prompt, name in zip(lab.prompts(4, seed=8), ("", "a", "", "a"), strict=True)
    ]
    handles = [background.submit(one) for one in long]

    def come_and_go(name: str) -> None:
        for number in range(6):
            names.load(f"{name}{number}", adapters[name])
            one = request(lab.prompts(1, seed=number)[0], f"{name}{number}", 3, logprobs=0)
            expected = request(one.prompt, name, 3, logprobs=0)
            results[name].append((expected, background.submit(one).result()))
            background.call(lambda own=f"{name}{number}": names.unload(own))

    results: dict[str, list[tuple[Request, Event]]] = {"b": [], "c": []}
    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(handle.result().finish_reason == "length" for handle in handles)
    background.close()
    assert names.names() == ("a",)
    assert [len(found) for found in results.values()] == [6, 6]
    for one, event in [item for found in results.values() for item in found]:
        assert event.logprobs == alone("packed", one).logprobs


def test_a_name_taken_by_two_threads_at_once_is_loaded_once(lab: Any, adapters: dict[str, Path]) -> None:
    target = engine_with(lab, adapters, "")
    failures: list[int] = []

    def load() -> None:
        try:
            target.adapters.load("a", adapters["a"])
        except RequestError as error:
            failures.append(error.status)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [409] * 5
    assert target.adapters.names() == ("a",)


def test_a_request_whose_adapter_went_away_on_its_way_fails_alone(lab: Any, adapters: dict[str, Path]) -> None:
    background = BackgroundEngine(engine_with(lab, adapters, "a"))
    entered, let_go = threading.Event(), threading.Event()

    def unload() -> None:
        entered.set()
        let_go.wait()
        background.engine.adapters.unload("a")

    thread = threading.Thread(target=lambda: background.call(unload))
    thread.start()
    entered.wait()
    handle = background.submit(request([1], "a"))
    let_go.set()
    thread.join()
    event = handle.result()
    assert event.finish_reason == "error"
    assert isinstance(event.error, RequestError)
    assert event.error.status == 404
    assert background.submit(request([1])).result().finish_reason == "length"
    background.close()
