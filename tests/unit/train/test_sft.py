"""The sft stage on a small world: adapter or checkpoint, the order of the data, and determinism."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.formats.documents import Document, write_documents
from lianlu.formats.messages import read_conversations
from lianlu.model.load import load_model
from lianlu.model.lora import load_adapter
from lianlu.model.quantized import quantize_linears
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.example_file import ExampleFile, ExampleWriter
from lianlu.train.held_out import held_out_nats
from lianlu.train.loop import Step
from lianlu.train.packing import answer_segment
from lianlu.train.parallel.layout import Layout
from lianlu.train.sft import FullTune, LoraTune, SftConfig, estimate, run
from lianlu.train.sft_task import SftTask, judged_segments

MakeConfig = Callable[..., SftConfig]
MakeOutput = Callable[[str], Output]
NewTask = Callable[[SftConfig], SftTask]


def make_texts(count: int) -> list[str]:
    source = random.Random(9)
    return [" ".join(source.choices(["the", "cat", "sees", "a", "dog", "old"], k=source.randint(8, 50))) for _ in range(count)]


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_lora_learns_and_leaves_the_base_alone(sft_config: MakeConfig, new_output: MakeOutput, checkpoint: Path) -> None:
    out, before = new_output("a"), (checkpoint / "model.safetensors").read_bytes()
    run(sft_config(tune={"kind": "lora", "rank": 4}, epochs=4), out)
    assert out.figures["held_out_loss"] < out.figures["held_out_loss_start"] - 0.1
    assert out.figures["held_out_perplexity"] < out.figures["held_out_perplexity_start"]
    assert 0 < out.figures["trained_parameters"] < out.figures["parameters"]
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "losses.jsonl"} <= visible(out.path)
    assert "model.safetensors" not in visible(out.path)
    assert json.loads((out.path / "adapter_config.json").read_text())["base_model_name_or_path"] == "nano"
    assert (checkpoint / "model.safetensors").read_bytes() == before


@pytest.fixture
def new_task(tmp_path: Path) -> Callable[[SftConfig], SftTask]:
    return lambda config: SftTask(config, Layout(config), tmp_path / "task")


@pytest.mark.parametrize("tune", [{"kind": "lora"}, {"kind": "full"}])
def test_what_is_written_scores_what_was_reported(
    sft_config: MakeConfig, new_output: MakeOutput, checkpoint: Path, conversations: Path, tune: dict[str, str]
) -> None:
    out = new_output("a")
    run(sft_config(tune=tune), out)
    model = load_model(checkpoint if tune["kind"] == "lora" else out.path)
    if tune["kind"] == "lora":
        load_adapter(model, out.path)
    tokenizer = Tokenizer.load(checkpoint)
    rendered = [tokenizer.render(talk.messages) for talk in read_conversations(conversations / "held_out.jsonl")]
    held_out = [answer_segment(one.ids, one.mask) for one in rendered]
    with torch.no_grad():
        nats, count = held_out_nats(model, held_out, 512, Layout(sft_config()))
    assert nats / count == pytest.approx(out.figures["held_out_loss"], rel=1e-5)


def test_bfloat16_holds_frozen_weights_in_bfloat16_and_repeats_itself(sft_config: MakeConfig, new_output: MakeOutput) -> None:
    first, second = new_output("a"), new_output("b")
    run(sft_config(precision="bfloat16", tune={"kind": "lora", "dropout": 0.1}), first)
    run(sft_config(precision="bfloat16", tune={"kind": "lora", "dropout": 0.1}, checkpoint={"every": 1}), second)
    for name in ("adapter_model.safetensors", "losses.jsonl", "samples.jsonl"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert first.figures["held_out_loss"] < first.figures["held_out_loss_start"]


def test_every_conversation_is_seen_once_an_epoch_in_an_order_of_its_own(sft_config: MakeConfig, new_task: NewTask) -> None:
    task = new_task(sft_config(epochs=3))
    seen = [[example.source for example in task.examples(step)] for step in range(task.num_steps)]
    per_epoch, epoch = [], []
    for chosen in seen:
        epoch.extend(chosen)
        if len(epoch) == 24:
            per_epoch.append(epoch)
            epoch = []
    assert [sorted(order) for order in per_epoch] == [list(range(24))] * 3
    assert per_epoch[0] != per_epoch[1]
    backwards = new_task(sft_config(epochs=3))
    steps = reversed(range(task.num_steps))
    assert [[example.source for example in backwards.examples(step)] for step in steps] == seen[::-1]


def test_a_step_is_full_but_not_too_full_and_micro_batches_hold_the_same(sft_config: MakeConfig, new_task: NewTask) -> None:
    config = sft_config(batch_tokens=300, micro_tokens=90)
    task = new_task(config)
    for step in range(task.num_steps):
        made = Step(task, step, Layout(config), config.micro_tokens)
        sizes = [sum(example.num_tokens for example in part) for part in made.own]
        assert sum(sizes) == sum(example.num_tokens for example in task.examples(step)) <= 300
        assert all(size <= 90 or len(part) == 1 for size, part in zip(sizes, made.own, strict=True))
        assert all(0 <= batch.num_tokens - size < 16 for size, batch in zip(sizes, made.batches, strict=True))


def test_steps_may_decide_the_length_of_a_run(sft_config: MakeConfig, new_output: MakeOutput) -> None:
    out = new_output("a")
    run(sft_config(steps=5), out)
    assert out.figures["steps"] == 5


def test_a_held_out_question_is_answered_as_a_sample(sft_config: MakeConfig, new_output: MakeOutput) -> None:
    out = new_output("a")
    run(sft_config(steps=1), out)
    samples = [json.loads(line) for line in (out.path / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 1
    assert set(samples[0]) == {"step", "prompt", "reference", "text"}


@pytest.mark.parametrize("tune", [{"kind": "lora", "rank": 4}, {"kind": "full"}])
def test_pretraining_goes_on_with_plain_text(
    sft_config: MakeConfig, new_output: MakeOutput, tmp_path: Path, tune: dict[str, object]
) -> None:
    texts = make_texts(40)
    write_documents(tmp_path / "documents", [Document(id=f"d{n}", text=text) for n, text in enumerate(texts)])
    out = new_output("a")
    run(sft_config(data=str(tmp_path / "documents"), tune=tune, epochs=3, max_length=64), out)
    assert out.figures["held_out_loss"] < out.figures["held_out_loss_start"] - 0.1
    assert out.figures["format"] == "text"
    assert out.figures["answer_tokens"] == out.figures["tokens"]
    samples = [json.loads(line) for line in (out.path / "samples.jsonl").read_text().splitlines()]
    assert texts[0].startswith(samples[0]["prompt"] + samples[0]["reference"])


def test_wrong_records_are_listed_and_the_rendered_ones_removed(
    sft_config: MakeConfig, new_output: MakeOutput, tmp_path: Path
) -> None:
    records = [{"question": f"q{number}", "answer": text} for number, text in enumerate(make_texts(30))]
    lines = [json.dumps(record) for record in records] + ["{oops"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    out = new_output("a")
    run(sft_config(data=str(tmp_path / "a.jsonl"), steps=2), out)
    (listed,) = [json.loads(line) for line in (out.path / "rejected.jsonl").read_text().splitlines()]
    assert (listed["file"], listed["line"], listed["reason"], listed["record"]) == ("a.jsonl", 31, "not JSON", "{oops")
    assert out.figures["rejected"] == {"not JSON": 1}
    assert (out.figures["examples"], out.figures["held_out_examples"]) == (28, 2)
    assert not (out.path / ".resume" / "examples").exists()


def test_what_is_judged_is_spread_over_all_that_is_held_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with ExampleWriter(tmp_path, "x", tokenizer.vocab_size, {}) as writer:
        for number in range(200):
            writer.add(np.full(11, number, dtype=np.uint32), np.ones(11, dtype=bool), "")
    examples = ExampleFile(tmp_path, "x", tokenizer.vocab_size)
    chosen = [example.source for example in judged_segments(examples, 409)]
    assert len(chosen) == 40
    assert chosen == sorted(set(chosen)) == [example.source for example in judged_segments(examples, 400)]
    assert 70 < sum(chosen) / 40 < 130
    assert len(judged_segments(examples, 1)) == 1
    assert len(judged_segments(examples, 10**9)) == 200


def test_a_spike_would_name_its_records(sft_config: MakeConfig, new_task: NewTask) -> None:
    task = new_task(sft_config())
    names = {task.describe(example) for step in range(task.num_steps) for example in task.examples(step)}
    assert names == {f"{number} (train.jsonl:{number + 2})" for number in range(24)}


def test_nothing_to_learn_is_refused(sft_config: MakeConfig, new_output: MakeOutput) -> None:
    with pytest.raises(DataError, match="leaves no training examples"):
        run(sft_config(max_length=2, too_long="drop"), new_output("a"))


def test_tune_is_one_of_two_things() -> None:
    base = {"model": "m", "data": "d"}
    assert isinstance(validate(SftConfig, base).tune, LoraTune)
    assert isinstance(validate(SftConfig, {**base, "tune": {"kind": "full"}}).tune, FullTune)
    with pytest.raises(ConfigError, match="rank"):
        validate(SftConfig, {**base, "tune": {"kind": "full", "rank": 3}})


def test_the_forecast_needs_no_inputs(sft_config: MakeConfig) -> None:
    absent = estimate(sft_config(model="@pretrain", data="/nowhere"))
    assert absent.seconds > estimate(sft_config()).seconds > 0
    assert estimate(sft_config(model="@pretrain", tune={"kind": "full"})).memory_bytes > absent.memory_bytes


def test_int8_weights_carry_an_adapter_but_are_not_trained(
    sft_config: MakeConfig, new_output: MakeOutput, checkpoint: Path, tmp_path: Path
) -> None:
    model = load_model(checkpoint)
    quantize_linears(model)
    save_model(model, tmp_path / "int8")
    Tokenizer.load(checkpoint).save(tmp_path / "int8")
    out = new_output("a")
    run(sft_config(model=str(tmp_path / "int8")), out)
    assert out.figures["held_out_loss"] < out.figures["held_out_loss_start"]
    with pytest.raises(ConfigError, match="int8 weights"):
        run(sft_config(model=str(tmp_path / "int8"), tune={"kind": "full"}), new_output("b"))


def test_a_model_with_fewer_rows_than_its_tokenizer_has_ids_is_refused(
    sft_config: MakeConfig, new_output: MakeOutput, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "short")
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps({**config, "vocab_size": 50}))
    with pytest.raises(DataError, match="rows for 50"):
        run(sft_config(model=str(tmp_path / "short")), new_output("a"))
