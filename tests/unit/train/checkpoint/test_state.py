"""The state of a run on disk: complete, canonical, and gone when the stage is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.core.errors import ArtifactError
from lianlu.train.checkpoint.folder import read_state, state_folder, steps
from lianlu.train.checkpoint.keep import Checkpoints
from lianlu.train.checkpoint.state import finish, finished, state_tensors, trainable

from .conftest import FFN, HIDDEN, KINDS, SHAPE, make_run, one_step, same

New = Callable[..., Checkpoints]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_optimiser_come_back_to_the_bit_and_go_on_alike(new_checkpoints: New, kind: str) -> None:
    run = make_run(kind)
    new_checkpoints().save(*run, 7, None)
    for other in (make_run(kind, seed=1), make_run(kind, seed=1, num_steps=0)):
        assert not same(run, other)
        assert new_checkpoints().restore(*other) == 7
        assert same(run, other)
        assert all(p.grad is None for p in other[0].parameters())
    one_step(*run, number=9)
    one_step(*other, number=9)
    assert same(run, other)


def test_names_and_shapes_on_disk_do_not_depend_on_the_layout(new_checkpoints: New, tmp_path: Path) -> None:
    new_checkpoints().save(*make_run("adamw8"), 1, None)
    tensors = read_state(tmp_path / "states", 1).record.tensors
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    gate_up = "layers.0.mlp.gate_up.weight"
    assert shapes[f"model.{gate_up}"] == (2, FFN, HIDDEN)
    assert shapes[f"optimizer.exp_avg.{gate_up}"] == (2, FFN, HIDDEN)
    assert shapes[f"optimizer.exp_avg_scale.{gate_up}"] == (2, FFN, 1)
    assert shapes[f"optimizer.step.{gate_up}"] == ()
    assert shapes["model.layers.0.mlp.down.weight"] == (HIDDEN, FFN)
    assert tensors[f"optimizer.exp_avg.{gate_up}"].dtype == "U8"
    assert "model.norm.weight" not in shapes


def test_a_state_is_read_without_a_model(new_checkpoints: New, tmp_path: Path) -> None:
    model, optimizer = make_run()
    new_checkpoints().save(model, optimizer, 3, None)
    state = read_state(tmp_path / "states", 3)
    whole = dict(state.tensors(""))
    for name, tensor in state_tensors(model, optimizer).items():
        assert torch.equal(whole[name], tensor)
    assert set(dict(state.tensors("model."))) == set(trainable(model))


def test_a_parameter_without_optimiser_state_comes_back_without_it(new_checkpoints: New) -> None:
    """The optimiser makes its states at the first step; if that was a spike there are none yet."""
    model, optimizer = make_run(num_steps=0)
    new_checkpoints().save(model, optimizer, 1, None)
    other = make_run(num_steps=2)
    assert new_checkpoints().restore(*other) == 1
    assert same((model, optimizer), other)
    assert not other[1].state


def test_a_state_of_another_model_or_optimiser_is_refused_by_name(new_checkpoints: New, tmp_path: Path) -> None:
    new_checkpoints().save(*make_run(), 1, None)
    wider = SHAPE.model_copy(update={"vocab_size": 140})
    for other, said in ((make_run(shape=wider, num_steps=0), "model.embed_tokens"), (make_run("muon"), "optimizer.momentum")):
        with pytest.raises(ArtifactError, match=r"step-00000001 cannot continue this run.*" + said) as caught:
            new_checkpoints().restore(*other)
        assert str(tmp_path / "states") in caught.value.hint


def test_finishing_keeps_the_figures_and_drops_the_states(new_checkpoints: New, tmp_path: Path) -> None:
    folder = tmp_path / "states"
    new_checkpoints().save(*make_run(), 1, None)
    assert finished(folder) is None
    finish(folder, {"loss": 1.5})
    assert finished(folder) == {"loss": 1.5}
    assert [path.name for path in folder.iterdir()] == ["done.json"]


@pytest.mark.parametrize(
    ("wish", "left"), [({"keep_every": 2}, [2, 4]), ({"keep_best": True}, [3]), ({"keep_every": 4, "keep_best": True}, [3, 4])]
)
def test_what_was_kept_on_purpose_outlives_the_run(new_checkpoints: New, tmp_path: Path, wish: Any, left: list[int]) -> None:
    checkpoints = new_checkpoints(**wish)
    for step, figure in enumerate((0.9, 0.8, 0.3, 0.5, 0.6), start=1):
        checkpoints.save(*make_run(), step, figure)
    finish(tmp_path / "states", {})
    assert steps(tmp_path / "states") == left


def test_a_finish_that_was_killed_is_completed(new_checkpoints: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_checkpoints().save(*make_run(), 1, None)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lianlu.train.checkpoint.state._drop_states", killed)
        finish(tmp_path / "states", {"loss": 1.0})
    assert state_folder(tmp_path / "states", 1).exists()
    assert finished(tmp_path / "states") == {"loss": 1.0}
    assert steps(tmp_path / "states") == []
