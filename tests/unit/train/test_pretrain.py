"""The pretrain stage on a small world: what it writes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lianlu.core.errors import DataError
from lianlu.core.files import files_below
from lianlu.core.store import Output
from lianlu.formats.shards import ShardWriter, open_shard
from lianlu.kernels.attention import PackedCausal
from lianlu.model.load import load_model, read_config
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.curve import read_curve
from lianlu.train.parallel.layout import Layout
from lianlu.train.pretrain import PretrainConfig, estimate, run
from lianlu.train.pretrain_task import PretrainTask

MakeConfig = Callable[..., PretrainConfig]
MakeOutput = Callable[[str], Output]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files_below(folder)
        if not str(path.relative_to(folder)).startswith("logs/")
    }


def test_a_checkpoint_that_has_learnt_and_brings_all_it_needs(pretrain_config: MakeConfig, new_output: MakeOutput) -> None:
    out = new_output("a")
    run(pretrain_config(steps=30), out)
    figures = out.figures
    assert figures["bits_per_byte"] < 0.75 * figures["bits_per_byte_start"]
    assert figures["loss"] < figures["loss_start"]
    assert figures["loss_start"] == pytest.approx(math.log(figures["parameters"] and read_config(out.path).vocab_size), rel=0.05)
    assert 0 < figures["ngram_bits_per_byte"] < 8
    assert 0 < figures["gzip_bits_per_byte"] < 8
    assert figures["tokens"] == 30 * 128
    assert read_config(out.path).architecture == "internlm2"
    assert Tokenizer.load(out.path).eos_ids[0] == read_config(out.path).eos_token_ids[0] == 0
    samples = [json.loads(line) for line in (out.path / "samples.jsonl").read_text().splitlines()]
    assert [(s["prompt"], s["temperature"]) for s in samples] == [(p, t) for p in ("", "The ", "def ") for t in (0.0, 0.8)]


def test_bits_per_byte_is_the_sum_over_whole_documents(pretrain_config: MakeConfig, new_output: MakeOutput) -> None:
    config, out = pretrain_config(sequence_length=512), new_output("a")
    run(config, out)
    model, shard = load_model(out.path), open_shard(Path(config.data) / "held_out.bin")
    task = PretrainTask(config, Tokenizer.load(config.data), Layout(config))
    nats = bytes_ = 0.0
    for index in task._documents:
        targets = torch.from_numpy(shard.document(index).astype("int64"))
        inputs = torch.cat([torch.tensor([0]), targets[:-1]])
        logits = model(inputs, torch.arange(len(inputs)), PackedCausal([0, len(inputs)]))
        nats += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum").detach())
        bytes_ += int(shard.text_bytes[index])
    assert out.figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / bytes_, rel=1e-5)


def test_the_same_configuration_gives_the_same_bytes(pretrain_config: MakeConfig, new_output: MakeOutput) -> None:
    first, second, other = new_output("a"), new_output("b"), new_output("c")
    run(pretrain_config(precision="bfloat16"), first)
    run(pretrain_config(precision="bfloat16", checkpoint={"every": 2}), second)
    run(pretrain_config(precision="bfloat16", seed=1), other)
    assert contents(first.path) == contents(second.path)
    assert contents(first.path)["model.safetensors"] != contents(other.path)["model.safetensors"]


def test_micro_batches_change_rounding_only(pretrain_config: MakeConfig, new_output: MakeOutput) -> None:
    losses = []
    for name, micro_tokens in (("a", 1000), ("b", 40)):
        out = new_output(name)
        run(pretrain_config(steps=4, micro_tokens=micro_tokens, optim={"lr": 1e-3}), out)
        losses.append(list(read_curve(out.path / "losses.jsonl").values("loss")))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_finished_stage_says_its_figures_again(pretrain_config: MakeConfig, new_output: MakeOutput) -> None:
    out = new_output("a")
    run(pretrain_config(), out)
    again = Output(out.path)
    stamp = (out.path / "model.safetensors").stat().st_mtime_ns
    run(pretrain_config(), again)
    assert again.figures == out.figures
    assert (out.path / "model.safetensors").stat().st_mtime_ns == stamp


def test_shards_it_cannot_use_are_refused(
    pretrain_config: MakeConfig, new_output: MakeOutput, shards: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "shards"
    shutil.copytree(shards, broken)
    with ShardWriter(broken / "train.bin", 320):
        pass
    with pytest.raises(DataError, match=r"train\.bin holds no tokens"):
        run(pretrain_config(data=str(broken)), new_output("a"))
    shutil.copy(shards / "train.bin", broken)
    with ShardWriter(broken / "held_out.bin", 320):
        pass
    with pytest.raises(DataError, match="holds no text"):
        run(pretrain_config(data=str(broken)), new_output("a"))
    shutil.copy(shards / "held_out.bin", broken)
    with ShardWriter(broken / "train.bin", 100) as shard:
        shard.add([1, 2, 0], text_bytes=5)
    with pytest.raises(DataError, match="know 100 tokens"):
        run(pretrain_config(data=str(broken)), new_output("a"))


def test_the_forecast_needs_no_inputs_and_grows_with_the_work(pretrain_config: MakeConfig) -> None:
    small, large = estimate(pretrain_config()), estimate(pretrain_config(data="/nowhere", steps=800))
    assert 0 < small.seconds < large.seconds
    assert small.memory_bytes > 0
    assert "M parameters" in large.basis


def test_steps_follow_from_tokens(pretrain_config: MakeConfig) -> None:
    assert pretrain_config(steps=0, tokens=1000, batch_tokens=300).num_steps == 4
