"""The Python interface over a whole tiny model on disk: alone, in lists, from threads, in asyncio, and in a hurry."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lianlu import LLM, Message, Output
from lianlu.core.errors import ConfigError, EngineError, RequestError
from lianlu.engine.llm import find_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SETTINGS: dict[str, Any] = {"dtype": "float32", "max_tokens": 2048, "max_running": 4, "max_batch_tokens": 64}
SHORT: Any = {"max_tokens": 6, "ignore_eos": True}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, lab: Any) -> Path:
    """Random weights and a tokenizer of bytes with a chat template."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    from lianlu.model.save import save_model

    place = tmp_path_factory.mktemp("models") / "tiny"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    save_model(lab.build(vocab_size=library.get_vocab_size(), max_position_embeddings=2048), place)
    library.save(str(place / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder, **SETTINGS) as made:
        yield made


def is_idle(llm: LLM, within_s: float = 20) -> bool:
    """Whether everything ends and gives its blocks back."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        stats = llm.stats()
        if stats.num_running == stats.num_queued == stats.used_blocks == 0:
            return True
        time.sleep(0.01)
    return False


def test_one_conversation_gives_one_output(llm: LLM) -> None:
    output = llm.chat(user("hello"), max_tokens=6, ignore_eos=True, logprobs=2)
    assert isinstance(output, Output)
    assert output.message == Message(role="assistant", content=output.text)
    assert (output.completion_tokens, output.finish_reason) == (6, "length")
    assert output.text == llm.tokenizer.decode(output.token_ids)
    assert len(output.logprobs) == 6
    assert all(len(item.top) == 2 and item.logprob <= 0 for item in output.logprobs)
    assert output.prompt_tokens == len(llm.tokenizer.render([Message(role="user", content="hello")], reply=True).ids)
    assert output.timings is not None
    assert output.timings.total_s > 0
    assert output.tool_calls == []


def test_dicts_and_messages_are_the_same(llm: LLM) -> None:
    assert llm.chat([Message(role="user", content="same")], **SHORT).token_ids == llm.chat(user("same"), **SHORT).token_ids


def test_a_list_is_answered_in_order_and_as_alone(llm: LLM) -> None:
    texts = [letter * count for count, letter in enumerate("abcdefghij", 1)]
    batch = llm.generate(texts, **SHORT)
    assert [output.token_ids for output in batch] == [llm.generate(text, **SHORT).token_ids for text in texts]
    talks = llm.chat([user(text) for text in texts], **SHORT)
    assert [talk.token_ids for talk in talks] == [llm.chat(user(text), **SHORT).token_ids for text in texts]
    assert len({talk.text for talk in talks}) > 1


def test_nothing_asked_is_nothing_answered(llm: LLM) -> None:
    assert llm.chat([]) == []
    assert llm.generate([]) == []


def test_token_ids_are_prompts_too(llm: LLM) -> None:
    ids = llm.tokenizer.encode("abc")
    assert llm.generate(ids, **SHORT).token_ids == llm.generate("abc", **SHORT).token_ids
    assert [o.prompt_tokens for o in llm.generate([ids, ids + ids], **SHORT)] == [3, 6]


def test_seeds_and_sampling_arrive(llm: LLM) -> None:
    drawn = [llm.generate("abc", temperature=1.5, seed=seed, **SHORT).token_ids for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    text = llm.generate("abc", max_tokens=20, ignore_eos=True).text
    stopped = llm.generate("abc", max_tokens=20, ignore_eos=True, stop=text[3])
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(text[3])], "stop")


def test_a_stream_is_the_reply_in_pieces(llm: LLM) -> None:
    for asked in (user("hello"), "hello"):
        stream = llm.stream(asked, **SHORT)
        pieces = list(stream)
        whole = llm.chat(asked, **SHORT) if isinstance(asked, list) else llm.generate(asked, **SHORT)
        assert "".join(pieces) == stream.output.text == whole.text
        assert stream.output.token_ids == whole.token_ids
        assert stream.output.finish_reason == "length"


def test_leaving_a_stream_cancels(llm: LLM) -> None:
    for piece in llm.stream("hello", max_tokens=1500, ignore_eos=True):
        assert piece
        break
    with llm.stream("hello", max_tokens=1500, ignore_eos=True) as stream:
        next(iter(stream))
    assert stream.output.finish_reason == "cancelled"
    assert is_idle(llm)


def test_asyncio(llm: LLM) -> None:
    async def main() -> tuple[Output, list[Output], str, str]:
        one, many = await asyncio.gather(llm.achat(user("a"), **SHORT), llm.agenerate(["b", "c"], **SHORT))
        stream = llm.astream(user("a"), **SHORT)
        pieces = [piece async for piece in stream]
        return one, many, "".join(pieces), stream.output.text

    one, many, pieces, text = asyncio.run(main())
    assert one.text == pieces == text == llm.chat(user("a"), **SHORT).text
    assert [output.text for output in many] == [output.text for output in llm.generate(["b", "c"], **SHORT)]


def test_cancelled_tasks_cancel_their_requests(llm: LLM) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(llm.agenerate(["x"] * 8, max_tokens=1500, ignore_eos=True)) for _ in range(2)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        assert all(isinstance(error, asyncio.CancelledError) for error in await asyncio.gather(*tasks, return_exceptions=True))

    asyncio.run(main())
    assert is_idle(llm)
    assert llm.generate("still there", **SHORT).completion_tokens == 6


def test_ctrl_c_leaves_the_model_of_use(llm: LLM) -> None:
    here = threading.main_thread().ident
    assert here is not None
    pressed = threading.Timer(0.3, signal.pthread_kill, (here, signal.SIGINT))
    pressed.start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["x"] * 60, max_tokens=1800, ignore_eos=True)
    pressed.join()
    assert is_idle(llm)
    assert llm.generate("still there", **SHORT).completion_tokens == 6


def test_threads_share_a_model(llm: LLM) -> None:
    texts = [f"text {number}" for number in range(12)]
    alone = [llm.generate(text, **SHORT).token_ids for text in texts]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda text: llm.generate(text, **SHORT).token_ids, texts))
    assert together == alone


def test_one_that_cannot_be_ends_the_list(llm: LLM) -> None:
    with pytest.raises(RequestError, match="tokens"):
        llm.generate(["fine", "x" * 5000, "fine"], **SHORT)
    with pytest.raises(RequestError, match="max_tokens"):
        llm.generate("x", max_tokens=-1)
    with pytest.raises(RequestError, match="no option temprature"):
        llm.chat(user("x"), temprature=1)  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="no conversation"):
        llm.chat("x")  # type: ignore[call-overload]
    assert is_idle(llm)


def test_a_reply_as_json(llm: LLM) -> None:
    output = llm.generate("x", **SHORT)
    with pytest.raises(RequestError, match="no JSON") as caught:
        output.json()
    assert "max_tokens" in caught.value.hint


def test_scores_are_those_of_generation(llm: LLM) -> None:
    made = llm.generate("abc", logprobs=0, **SHORT)
    scored, other = llm.score([("abc", made.text), ("abc", "zq")])
    if llm.tokenizer.encode(made.text) == list(made.token_ids):
        assert scored.logprob == pytest.approx(sum(item.logprob for item in made.logprobs), abs=1e-4)
        assert scored.is_greedy
    assert other.num_tokens == 2
    (talk,) = llm.score([[*user("hi"), {"role": "assistant", "content": "yo"}]])
    assert talk.num_tokens >= 3
    with pytest.raises(RequestError, match="cannot be scored"):
        llm.score([user("hi")])


def test_vectors(llm: LLM) -> None:
    texts = ["hello", "a longer text " * 20, "hello"]
    vectors = llm.embed(texts)
    assert all(vector.shape == (32,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) for vector in vectors)
    assert (vectors[0] == vectors[2]).all()
    assert (llm.embed(["hello"])[0] == vectors[0]).all()
    assert not np.allclose(vectors[0], llm.embed(["hello"], "last")[0])
    with pytest.raises(RequestError, match="empty"):
        llm.embed([""])
    with pytest.raises(RequestError, match="context"):
        llm.embed(["x" * 5000])
    assert llm.embed([]) == []


def test_a_closed_model_says_so(folder: Path) -> None:
    with LLM(folder, **SETTINGS) as made, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(made.generate, "x", max_tokens=1500, ignore_eos=True)
        made.close()
        with pytest.raises((RequestError, EngineError)):
            waiting.result(10)
    made.close()
    with pytest.raises((RequestError, EngineError)):
        made.generate("x")


ADD: Any = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}}


def test_replies_that_have_to_match(llm: LLM) -> None:
    assert re.fullmatch("[ab]{3}", llm.chat(user("x"), regex="[ab]{3}").text)
    value = llm.generate("x", json_schema={"enum": [True, None]}, temperature=1.0, seed=1).json()
    assert value in (True, None)
    pieces = list(llm.stream(user("x"), grammar='start: "no" | "yes"'))
    assert "".join(pieces) in ("no", "yes")
    with pytest.raises(RequestError):
        llm.chat(user("x"), regex="(")
    assert [output.text in ("a", "b") for output in asyncio.run(llm.agenerate(["x", "y"], regex="[ab]"))] == [True, True]


def test_tools_that_have_to_be_called(llm: LLM) -> None:
    closed = ADD | {"parameters": ADD["parameters"] | {"additionalProperties": False}}
    output = llm.chat(user("x"), tools=[closed], tool_choice="add", max_tokens=200)
    assert (output.finish_reason, output.tool_calls[0].name) == ("tool_calls", "add")
    assert output.tool_calls[0].arguments in ({"a": 1}, {"a": 2})
    assert output.message.tool_calls == output.tool_calls
    stream = llm.stream(user("x"), tools=[closed], tool_choice="add", max_tokens=200)
    assert "".join(stream) == stream.output.text
    assert stream.output.tool_calls == output.tool_calls
    assert llm.chat(user("x"), tools=[closed], tool_choice="none", **SHORT).tool_calls == []
    for wrong in ({"tool_choice": "add"}, {"tools": [closed], "tool_choice": "sub"}):
        with pytest.raises(RequestError, match="tool_choice"):
            llm.chat(user("x"), **wrong)  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="no tools"):
        llm.generate("x", tool_choice="none")


def test_the_next_turn_costs_what_is_new(llm: LLM) -> None:
    talk: list[Any] = user("a long beginning " * 10)
    first = llm.chat(talk, **SHORT)
    second = llm.chat([*talk, first.message, *user("more")], **SHORT)
    assert second.cached_tokens >= first.prompt_tokens - llm._engine.engine.config.block_size


def test_named_sessions_survive(folder: Path, tmp_path: Path) -> None:
    talk = user("a long beginning " * 10)
    with LLM(folder, sessions=tmp_path / "kept", **SETTINGS) as made:
        first = made.chat(talk, session="mine", **SHORT)
    with LLM(folder, sessions=tmp_path / "kept", **SETTINGS) as made:
        again = made.chat(talk, session="mine", **SHORT)
        assert made.chat(user("other " * 30), **SHORT).cached_tokens < 32
    assert again.token_ids == first.token_ids
    assert again.cached_tokens >= 128 > first.cached_tokens


def test_sleep_and_wake(folder: Path) -> None:
    with LLM(folder, **SETTINGS) as made:
        before = made.generate("x", **SHORT)
        made.sleep()
        for ask in (made.generate, made.embed, made.score):
            with pytest.raises(RequestError, match="asleep"):
                ask(["x"])  # type: ignore[operator]
        made.wake()
        assert made.generate("x", **SHORT).token_ids == before.token_ids


def test_adapters_by_name(folder: Path, tmp_path: Path, llm: LLM) -> None:
    from lianlu.model.load import load_model
    from lianlu.model.lora import LoraSpec, add_lora, save_adapter

    model = load_model(folder)
    add_lora(model, LoraSpec(rank=2, alpha=64), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    save_adapter(model, tmp_path / "law", "tiny")
    with LLM(folder, adapters={"law": tmp_path / "law"}, **SETTINGS) as made:
        assert made.adapters == ("law",)
        plain, law = made.generate("hello", **SHORT), made.generate("hello", adapter="law", **SHORT)
        assert plain.token_ids == llm.generate("hello", **SHORT).token_ids != law.token_ids
        assert made.generate("hello", adapter="law", **SHORT).token_ids == law.token_ids
        made.unload_adapter("law")
        with pytest.raises(RequestError, match="law"):
            made.generate("hello", adapter="law", **SHORT)
        made.load_adapter("again", tmp_path / "law")
        assert made.generate("hello", adapter="again", **SHORT).token_ids == law.token_ids


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="server"):
        find_model("http://localhost:8000")
    with pytest.raises(ConfigError, match="no model") as caught:
        LLM(tmp_path / "missing")
    assert "lianlu pull" in caught.value.hint
    with pytest.raises(ConfigError, match="did you mean max_running"):
        LLM(tmp_path, max_runing=3)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, lianlu; lianlu.Message; print(dir(lianlu)); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LLM" in done.stdout


def test_the_package_has_no_other_names() -> None:
    import lianlu

    assert all(getattr(lianlu, name) for name in lianlu.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = lianlu.nothing
