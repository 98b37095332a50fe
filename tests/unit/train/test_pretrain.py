"""The pretrain stage on a small world: what it writes, that it repeats itself, mixes, has phases, continues, and refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import files_below
from lianlu.core.store import Output
from lianlu.formats.shards import ShardWriter, open_shard
from lianlu.kernels.attention import PackedCausal
from lianlu.model.config import DynamicScaling, ModelConfig, preset
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model, read_config
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train.curve import read_curve
from lianlu.train.parallel.layout import Layout
from lianlu.train.pretrain import PretrainConfig, estimate, run
from lianlu.train.pretrain_task import PretrainTask

MakeConfig = Callable[..., PretrainConfig]
MakeOutput = Callable[[str], Output]
PHASES: list[dict[str, Any]] = [
    {"share": 0.5, "rope_theta": 5e2},
    {"share": 0.5, "sequence_length": 64, "rope_theta": 1e5, "short_share": 0.5, "short_length": 32, "lr_scale": 0.5},
]


class Killed(BaseException):
    """Stands for the signal."""


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files_below(folder)
        if not str(path.relative_to(folder)).startswith("logs/")
    }


def bits_per_byte(model: Decoder, shard_path: Path, max_segment: int) -> tuple[float, int]:
    """Bits and bytes of all documents of a shard, one forward pass a piece."""
    shard, nats = open_shard(shard_path), 0.0
    for index in range(shard.num_documents):
        ids = torch.from_numpy(shard.document(index).astype("int64"))
        inputs = torch.cat([torch.tensor([0]), ids[:-1]])
        for start in range(0, len(ids), max_segment):
            part = inputs[start : start + max_segment]
            logits = model(part, torch.arange(len(part)), PackedCausal([0, len(part)]))
            nats += float(torch.nn.functional.cross_entropy(logits, ids[start : start + max_segment], reduction="sum"))
    return nats / math.log(2), int(shard.text_bytes.sum())


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
    assert not [name for name in figures if name.startswith(("epochs_", "held_out_bpb", "phases"))]
    assert read_config(out.path).architecture == "internlm2"
    assert Tokenizer.load(out.path).eos_ids[0] == read_config(out.path).eos_token_ids[0] == 0
    samples = [json.loads(line) for line in (out.path / "samples.jsonl").read_text().splitlines()]
    assert [(s["prompt"], s["temperature"]) for s in samples] == [(p, t) for p in ("", "The ", "def ") for t in (0.0, 0.8)]


def test_bits_per_byte_is_the_sum_over_whole_documents(pretrain_config: MakeConfig, new_output: MakeOutput) -> None:
    config, out = pretrain_config(sequence_length=512, held_out_tokens=10_000), new_output("a")
    run(config, out)
    with torch.no_grad():
        bits, num_bytes = bits_per_byte(load_model(out.path), Path(config.folders[0]) / "held_out.bin", 512)
    assert out.figures["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)


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


def test_several_sources_are_mixed_and_judged_each_by_itself(
    pretrain_config: MakeConfig, new_output: MakeOutput, shards: Path, number_shards: Path
) -> None:
    out = new_output("a")
    both = {"data": [str(shards), str(number_shards)], "names": ["words", "numbers"], "weights": [3, 1]}
    config = pretrain_config(**both, steps=20, held_out_tokens=20_000)
    run(config, out)
    figures, curve = out.figures, read_curve(out.path / "losses.jsonl")
    with torch.no_grad():
        model = load_model(out.path)
        sums = {n: bits_per_byte(model, p / "held_out.bin", 32) for n, p in (("words", shards), ("numbers", number_shards))}
    for name, (bits, num_bytes) in sums.items():
        assert figures[f"bits_per_byte_{name}"] == curve.last(f"held_out_bpb_{name}") == pytest.approx(bits / num_bytes, rel=1e-5)
        assert figures[f"bits_per_byte_{name}"] < curve.first(f"held_out_bpb_{name}")
    together = sum(bits for bits, _ in sums.values()) / sum(size for _, size in sums.values())
    assert figures["bits_per_byte"] == pytest.approx(together, rel=1e-5)
    for baseline in ("gzip", "ngram"):
        each = [figures[f"{baseline}_bits_per_byte_{name}"] for name in sums]
        assert min(each) < figures[f"{baseline}_bits_per_byte"] < max(each)
    sizes = {name: open_shard(path / "train.bin").num_tokens for name, path in (("words", shards), ("numbers", number_shards))}
    assert figures["epochs_words"] == pytest.approx(20 * 128 * 0.75 / sizes["words"])
    assert figures["epochs_numbers"] == pytest.approx(20 * 128 * 0.25 / sizes["numbers"])


def test_another_text_is_judged_document_by_document(
    pretrain_config: MakeConfig, new_output: MakeOutput, shards: Path, number_shards: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(shards, bare)
    with ShardWriter(bare / "held_out.bin", open_shard(bare / "train.bin").vocab_size):
        pass
    out = new_output("a")
    run(pretrain_config(data=str(bare), held_out=str(number_shards), held_out_tokens=100_000), out)
    judged = [json.loads(line) for line in (out.path / "judged.jsonl").read_text().splitlines()]
    with torch.no_grad():
        bits, num_bytes = bits_per_byte(load_model(out.path), number_shards / "train.bin", 32)
    assert [row["id"] for row in judged] == [f"train.bin{number}" for number in range(25)]
    assert sum(row["bytes"] for row in judged) == out.figures["held_out_bytes"] == num_bytes
    assert sum(row["bits"] for row in judged) == pytest.approx(bits, rel=1e-5)
    assert out.figures["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)
    assert not [name for name in out.figures if name.startswith(("gzip", "ngram"))]
    with pytest.raises(DataError, match="holds no text to evaluate on"):
        run(pretrain_config(data=str(bare)), new_output("b"))
    other = json.loads((number_shards / "tokenizer.json").read_text())
    swapped = other["model"]["vocab"]
    first, second = list(swapped)[40:42]
    swapped[first], swapped[second] = swapped[second], swapped[first]
    shutil.copytree(number_shards, tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="made with different tokenizers"):
        run(pretrain_config(held_out=str(tmp_path / "other")), new_output("c"))


def test_a_run_in_phases_saves_the_last_rotary_base(
    pretrain_config: MakeConfig, new_output: MakeOutput, number_shards: Path
) -> None:
    out = new_output("a")
    shape = {"preset": "internlm2-nano", "rope_scaling": {"kind": "dynamic", "factor": 2.0}, "max_position_embeddings": 40}
    config = pretrain_config(data=str(number_shards), model=shape, phases=PHASES, held_out_tokens=20_000)
    run(config, out)
    saved = read_config(out.path)
    assert (saved.rope_theta, saved.max_position_embeddings, saved.rope_scaling) == (1e5, 64, DynamicScaling(factor=2.0))
    assert saved.vocab_size == preset("internlm2-nano").vocab_size > Tokenizer.load(out.path).vocab_size
    with torch.no_grad():
        bits, num_bytes = bits_per_byte(load_model(out.path), number_shards / "held_out.bin", 32)
    assert out.figures["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)
    curve = read_curve(out.path / "losses.jsonl")
    assert [figure["steps"] for figure in out.figures["phases"]] == [4, 4]
    rates = curve.values("lr")
    assert rates[4] < 0.6 * rates[3]


def test_the_rotary_base_of_a_phase_is_that_of_a_model_built_with_it(
    pretrain_config: MakeConfig, tokenizer: Tokenizer, number_shards: Path
) -> None:
    config = pretrain_config(data=str(number_shards), phases=PHASES, steps=8)
    layout = Layout(config)
    task = PretrainTask(config, tokenizer, layout)
    shape = config.model.as_model(tokenizer.vocab_size, config.timeline.longest)
    model = build_model(shape, seed=3)
    losses = {}
    for step in (7, 0):
        batch = task.collate(task.examples(7))
        task.prepare(model, step)
        fresh = build_model(shape.model_copy(update={"rope_theta": PHASES[step // 4]["rope_theta"]}), seed=3)
        losses[step] = float(task.loss(model, batch).detach())
        assert losses[step] == float(task.loss(fresh, batch).detach())
        assert model.config == fresh.config
    assert losses[0] != losses[7]


@pytest.mark.parametrize("killed_before", [3, 4, 5, 8])
def test_a_run_killed_around_the_edge_of_a_phase_ends_in_the_same_bits(
    killed_before: int,
    pretrain_config: MakeConfig,
    new_output: MakeOutput,
    shards: Path,
    number_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = [str(shards), str(number_shards)]
    config = pretrain_config(data=folders, phases=PHASES, checkpoint={"every": 1}, sample_tokens=0, ngram_bytes=1000)
    whole, broken = new_output("whole"), new_output("broken")
    run(config, whole)
    rate = PretrainTask.rate

    def killed(self: PretrainTask, step: int) -> float:
        if step == killed_before:
            raise Killed
        return rate(self, step)

    def killed_at_the_end(self: PretrainTask, model: Decoder, out: Output) -> dict[str, Any]:
        raise Killed

    monkeypatch.setattr(PretrainTask, "rate", killed)
    monkeypatch.setattr(PretrainTask, "figures", killed_at_the_end)
    with pytest.raises(Killed):
        run(config, broken)
    monkeypatch.undo()
    run(config, broken)
    assert contents(whole.path) == contents(broken.path)


def test_continued_pretraining_begins_where_the_checkpoint_is(
    pretrain_config: MakeConfig, new_output: MakeOutput, number_shards: Path
) -> None:
    first, second = new_output("a"), new_output("b")
    run(pretrain_config(model=small(tie_word_embeddings=False), steps=20), first)
    phases = [{"share": 1.0, "sequence_length": 64, "rope_theta": 4e4}]
    again = {"start": str(first.path), "model": {}, "steps": 6, "optim": {"lr": 1e-9}}
    run(pretrain_config(**again), second)
    assert second.figures["bits_per_byte_start"] == pytest.approx(first.figures["bits_per_byte"], rel=1e-6)
    assert second.figures["bits_per_byte"] == pytest.approx(first.figures["bits_per_byte"], rel=1e-4)
    assert read_config(second.path) == read_config(first.path)
    third = new_output("c")
    run(pretrain_config(**{**again, "data": str(number_shards), "phases": phases, "optim": {"lr": 1e-3}}), third)
    assert third.figures["bits_per_byte"] < third.figures["bits_per_byte_start"]
    saved = read_config(third.path)
    assert (saved.rope_theta, saved.max_position_embeddings) == (4e4, 64)
    assert saved.vocab_size == read_config(first.path).vocab_size


def small(**changes: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return {**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, **changes}


def test_a_checkpoint_that_does_not_fit_the_shards_is_refused(
    pretrain_config: MakeConfig, new_output: MakeOutput, checkpoint: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    fewer = tmp_path / "fewer"
    config = ModelConfig(**{**read_config(checkpoint).model_dump(), "vocab_size": tokenizer.vocab_size - 1})
    save_model(build_model(config, seed=0), fewer)
    tokenizer.save(fewer)
    with pytest.raises(DataError, match=r"the model in .*fewer only"):
        run(pretrain_config(start=str(fewer), model={}), new_output("a"))
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    table = json.loads((other / "tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    one, two = [token for token, index in vocabulary.items() if index in (270, 271)]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"not made with the tokenizer of .*id 270 is"):
        run(pretrain_config(start=str(other), model={}), new_output("a"))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1.0, 2.0]}, "do not fit 1 sources"),
        ({"data": ["a", "b"], "weights": [1, -1]}, "do not fit 2 sources"),
        ({"data": ["a", "b"], "weights": [0, 0]}, "do not fit 2 sources"),
        ({"data": ["a", "b"], "phases": [{"share": 1.0, "weights": [1]}]}, "do not fit 2 sources"),
        ({"data": ["a", "b"], "names": ["en", "en"]}, "names"),
        ({"data": []}, "no shards"),
        ({"start": "somewhere"}, "start and model are both given"),
        ({"phases": [{"share": 0.5}]}, "add up to"),
        ({"model": {"preset": "internlm2-2b"}}, "there is no model shape"),
        ({"model": {"num_attention_heads": 3, "num_key_value_heads": 2}}, "must be a multiple"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    pretrain_config: MakeConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain_config(**changes)


def test_a_configuration_read_back_is_the_same(pretrain_config: MakeConfig) -> None:
    config = pretrain_config(model={"preset": "internlm2-nano", "num_hidden_layers": 3}, phases=PHASES, data=["a", "b"])
    assert validate(PretrainConfig, config.model_dump(mode="json")) == config
    assert config.model.num_hidden_layers == 3
    assert config.model.hidden_size == preset("internlm2-nano").hidden_size


def test_the_forecast_needs_no_inputs_and_grows_with_the_work(pretrain_config: MakeConfig) -> None:
    small, large = estimate(pretrain_config()), estimate(pretrain_config(data="/nowhere", steps=800))
    assert 0 < small.seconds < large.seconds
    assert small.memory_bytes > 0
    assert "M parameters" in large.basis
    assert "vocabulary" not in small.basis
    assert "vocabulary of 8,192 assumed" in large.basis


def test_steps_follow_from_tokens(pretrain_config: MakeConfig) -> None:
    assert pretrain_config(steps=0, tokens=1000, batch_tokens=300).num_steps == 4


def test_a_spike_names_the_document_of_its_source(
    pretrain_config: MakeConfig, tokenizer: Tokenizer, shards: Path, number_shards: Path
) -> None:
    config = pretrain_config(data=[str(shards), str(number_shards)], weights=[1, 1])
    task = PretrainTask(config, tokenizer, Layout(config))
    for example in task.examples(3):
        place, path = task.describe(example).removeprefix("document ").split(" of ")
        document = open_shard(Path(path)).document(int(place)).tolist()
        targets = example.targets.tolist()
        assert any(document[at : at + len(targets)] == targets for at in range(len(document)))
