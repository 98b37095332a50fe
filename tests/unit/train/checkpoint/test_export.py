"""A Hugging Face folder out of a run that was killed, one that is at work, and one that has finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lianlu.cli.main import call
from lianlu.core.errors import ArtifactError, ConfigError, LianluError
from lianlu.core.store import InputRecord, Output, Store
from lianlu.model.decoder import Decoder, build_model
from lianlu.model.load import load_model, read_config
from lianlu.model.lora import load_adapter, merge_adapter
from lianlu.model.lora_files import trained_base
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.train import pretrain, sft
from lianlu.train.checkpoint import folder as states
from lianlu.train.checkpoint.describe import RUN
from lianlu.train.checkpoint.export import RESUME, Wish, export, find_run
from lianlu.train.checkpoint.folder import read_state, state_folder, steps

KILLED_AT = 6
OFTEN = {"checkpoint": {"every": 2, "keep_last": 9}, "eval_every": 2}


class Killed(BaseException):
    """Stands for the signal."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any, Output], Path]:
    """Run a stage until it has logged some steps."""

    def run(stage: Any, config: Any, out: Output) -> Path:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("lianlu.train.journal.Journal.step", stop)
            stage.run(config, out)
        return out.path

    def stop(self: Any, step: int, *_: Any) -> None:
        if step > KILLED_AT:
            raise Killed

    return run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def weights_of(run: Path, step: int, model: Decoder) -> dict[str, Tensor]:
    """What a state holds, in the shapes of the decoder."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return {name: t.reshape(shapes[name]) for name, t in read_state(run / RESUME, step).tensors("model.")}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_killed_pretraining_run_is_a_model(
    pretrain_config: Any, new_output: Any, killed: Any, store: Store, tmp_path: Path
) -> None:
    run, target = killed(pretrain, pretrain_config(**OFTEN), new_output("run")), tmp_path / "out"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    said = export(run, target, Wish(), store)
    assert "step 6" in said
    model = load_model(target)
    equal(dict(model.state_dict()), weights_of(run, 6, model))
    assert Tokenizer.load(target).vocab_size <= model.config.vocab_size
    assert model.config == load_model(target).config
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["llama", "internlm2"])
def test_in_another_layout_and_number_type(
    pretrain_config: Any, new_output: Any, killed: Any, store: Store, tmp_path: Path, layout: str
) -> None:
    run, target = killed(pretrain, pretrain_config(**OFTEN), new_output("run")), tmp_path / "out"
    export(run, target, Wish(layout=layout, dtype="bfloat16", step="4"), store)
    table = json.loads((target / "config.json").read_text())
    assert (table["model_type"], table["torch_dtype"]) == (layout, "bfloat16")
    model = load_model(target)
    wanted = weights_of(run, 4, model)
    equal(dict(model.state_dict()), {name: tensor.bfloat16().float() for name, tensor in wanted.items()})


def test_the_best_state_is_the_one_with_the_lowest_figure(
    pretrain_config: Any, new_output: Any, killed: Any, store: Store, tmp_path: Path
) -> None:
    run = killed(pretrain, pretrain_config(**OFTEN), new_output("run"))
    record = state_folder(run / RESUME, 4) / states.RECORD
    table = json.loads(record.read_text())
    record.write_text(json.dumps({**table, "figure": 1e-3}))
    export(run, tmp_path / "out", Wish(step="best"), store)
    model = load_model(tmp_path / "out")
    equal(dict(model.state_dict()), weights_of(run, 4, model))


def widened(checkpoint: Path, target: Path) -> Path:
    """A model of the same family whose matrices are wide enough for blocks of four bits."""
    shape = read_config(checkpoint).model_copy(update={"hidden_size": 64, "head_dim": 16})
    save_model(build_model(shape, seed=1), target)
    Tokenizer.load(checkpoint).save(target)
    return target


@pytest.mark.parametrize(
    "tune",
    [
        {"rank": 4},
        {"rank": 4, "dora": True, "rslora": True},
        {"rank": 3, "target": ["wqkv", "w2"]},
        {"kind": "qlora", "rank": 4},
    ],
)
def test_a_killed_fine_tuning_run_is_an_adapter_or_merged_a_model(
    sft_config: Any, new_output: Any, killed: Any, store: Store, tmp_path: Path, tune: dict[str, Any]
) -> None:
    config = sft_config(tune=tune, steps=9, **OFTEN)
    if tune.get("kind") == "qlora":
        config = config.model_copy(update={"model": str(widened(Path(config.model), tmp_path / "wide" / "nano"))})
    run = killed(sft, config, new_output("run"))
    export(run, tmp_path / "adapter", Wish(), store)
    export(run, tmp_path / "merged", Wish(merge=True), store)
    model = load_model(config.model)
    load_adapter(model, tmp_path / "adapter")
    wanted = weights_of(run, 6, model)
    assert wanted
    equal({name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, wanted)
    merge_adapter(model)
    equal(dict(load_model(tmp_path / "merged").state_dict()), dict(model.state_dict()))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "nano"
    assert trained_base(tmp_path / "adapter") == ("nf4" if tune.get("kind") == "qlora" else "original")
    assert not any((tmp_path / "merged").glob(".*"))


def test_a_killed_full_fine_tuning_run_is_a_model(
    sft_config: Any, new_output: Any, killed: Any, store: Store, tmp_path: Path
) -> None:
    run = killed(sft, sft_config(tune={"kind": "full"}, steps=9, **OFTEN), new_output("run"))
    export(run, tmp_path / "out", Wish(), store)
    model = load_model(tmp_path / "out")
    equal(dict(model.state_dict()), weights_of(run, 6, model))


def test_an_adapter_of_a_state_is_the_one_the_stage_would_have_written(
    sft_config: Any, new_output: Any, store: Store, tmp_path: Path
) -> None:
    """The last state of a run that went through, kept on purpose, against the result."""
    out = new_output("run")
    sft.run(sft_config(tune={"rank": 4}, steps=4, checkpoint={"keep_every": 4}), out)
    assert steps(out.path / RESUME) == [4]
    export(out.path, tmp_path / "state", Wish(step="4"), store)
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        assert (tmp_path / "state" / name).read_bytes() == (out.path / name).read_bytes()


def publish(store: Store, artifact_id: str, kind: str, source: Path, base: Path) -> Path:
    """A finished artifact with the files of `source`."""
    out = Output(store.work(artifact_id))
    shutil.copytree(source, out.path, dirs_exist_ok=True)
    draft = {
        "id": artifact_id, "kind": kind, "stage": "sft", "stage_version": 1, "step": "sft", "key": artifact_id,
        "config": {}, "inputs": [InputRecord(field="model", written="nano", digest="0", path=str(base))],
        "lianlu": "0", "git": "", "device": "cpu", "seconds": 1.0, "started": "2026-01-01T00:00:00.000Z",
        "peak_memory_bytes": 1,
    }  # fmt: skip
    path = store.publish(out, draft).path
    store.set_name("sft", artifact_id)
    return path


def test_a_finished_run_is_exported_from_its_result(
    sft_config: Any, new_output: Any, store: Store, tmp_path: Path, checkpoint: Path
) -> None:
    out = new_output("run")
    sft.run(sft_config(tune={"rank": 4}, steps=4), out)
    publish(store, "sft-123", "adapter", out.path, checkpoint)
    assert find_run("@sft", store) == find_run("sft-123", store) == store.root / "artifacts" / "sft-123"
    export(find_run("@sft", store), tmp_path / "adapter", Wish(), store)
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        assert (tmp_path / "adapter" / name).read_bytes() == (out.path / name).read_bytes()
    export(find_run("@sft", store), tmp_path / "merged", Wish(merge=True, dtype="bfloat16", layout="llama"), store)
    model = load_model(checkpoint)
    load_adapter(model, out.path)
    merge_adapter(model)
    wanted = {name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()}
    equal(dict(load_model(tmp_path / "merged").state_dict()), wanted)


def test_a_checkpoint_keeps_its_number_type(store: Store, tmp_path: Path, checkpoint: Path) -> None:
    export(checkpoint, tmp_path / "half", Wish(dtype="bfloat16"), store)
    export(tmp_path / "half", tmp_path / "again", Wish(layout="llama"), store)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    equal(dict(load_model(tmp_path / "again").state_dict()), dict(load_model(tmp_path / "half").state_dict()))


def test_what_is_not_there_is_said_clearly(
    pretrain_config: Any, new_output: Any, killed: Any, store: Store, tmp_path: Path
) -> None:
    run, target = killed(pretrain, pretrain_config(**OFTEN), new_output("run")), tmp_path / "out"
    wishes: list[tuple[Wish, type[LianluError], str]] = [
        (Wish(layout="gpt2"), ConfigError, "gpt2"),
        (Wish(layout="qwen2"), ConfigError, "qwen2"),
        (Wish(dtype="int3"), ConfigError, "int3"),
        (Wish(step="last"), ConfigError, "last"),
        (Wish(step="5"), ArtifactError, "no state of step 5"),
    ]
    for wish, kind, said in wishes:
        with pytest.raises(kind, match=said) as caught:
            export(run, target, wish, store)
        assert caught.value.hint
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="there already"):
        export(run, tmp_path / "full", Wish(), store)
    (run / RESUME / RUN).unlink()
    with pytest.raises(ArtifactError, match=RUN):
        export(run, target, Wish(), store)
    shutil.rmtree(run / RESUME)
    with pytest.raises(ArtifactError, match="no whole state"):
        export(run, target, Wish(), store)
    assert not target.exists()
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_an_unfinished_run_is_found_by_id_or_stage(store: Store) -> None:
    for name in ("sft-aaa", "pretrain-bbb", "pretrain-bcc"):
        (store.work(name) / RESUME).mkdir()
    assert find_run("@sft", store) == find_run("sft-a", store) == store.root / "work" / "sft-aaa"
    with pytest.raises(ArtifactError, match="fits several") as caught:
        find_run("pretrain", store)
    assert "pretrain-bbb, pretrain-bcc" in caught.value.hint
    with pytest.raises(ArtifactError, match="no artifact or run eval") as caught:
        find_run("eval", store)
    assert "sft-aaa" in caught.value.hint


def test_a_state_that_is_removed_while_it_is_read_is_replaced_by_a_newer_one(
    pretrain_config: Any, new_output: Any, killed: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = killed(pretrain, pretrain_config(**OFTEN), new_output("run"))
    newer = state_folder(run / RESUME, 6)
    newer.rename(tmp_path / "later")
    real, calls = states.read_state, []

    def racing(folder: Path, step: int) -> Any:
        found = real(folder, step)
        if step == 4 and not calls:
            calls.append(step)
            states.remove(state_folder(folder, 4))
            (tmp_path / "later").rename(newer)
        return found

    monkeypatch.setattr("lianlu.train.checkpoint.export.states.read_state", racing)
    assert "step 6" in export(run, tmp_path / "out", Wish(), store)


def test_the_verb(
    pretrain_config: Any, killed: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("LIANLU_HOME", str(store.root))
    killed(pretrain, pretrain_config(**OFTEN), Output(store.work("pretrain-aaa")))
    assert call(["export", "@pretrain", str(tmp_path / "out"), "--layout", "llama", "--dtype", "bfloat16", "--step", "2"]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert read_config(tmp_path / "out").architecture == "llama"
    assert call(["export", "@pretrain", str(tmp_path / "out")]) == 2
    assert "there already" in capsys.readouterr().err
