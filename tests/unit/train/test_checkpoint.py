"""The state of a run on disk: complete, checked, and gone when the stage is done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from lianlu.core.errors import ArtifactError
from lianlu.train.checkpoint.state import FILE, finish, finished, restore_state, save_state


def trained(width: int = 3) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 2), nn.Linear(2, 1))
    model[1].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_weights_and_optimiser_come_back_to_the_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_state(tmp_path, model, optimizer, step=7, logs=[])
    other, fresh = trained()
    for parameter in other.parameters():
        parameter.data.zero_()
    fresh.state.clear()
    assert restore_state(tmp_path, other, fresh, []) == 7
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if ours.requires_grad:
            assert torch.equal(ours, theirs)
            for key, value in optimizer.state[ours].items():
                assert torch.equal(value, fresh.state[theirs][key])


def test_frozen_weights_are_not_written(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_state(tmp_path, model, optimizer, step=1, logs=[])
    with safe_open(tmp_path / FILE, framework="pt") as file:
        names = set(file.keys())
    assert "model.0.weight" in names
    assert "model.1.bias" not in names


def test_logs_are_cut_back_to_what_the_state_knows(tmp_path: Path) -> None:
    model, optimizer = trained()
    log = tmp_path / "losses.jsonl"
    log.write_text("one\n")
    save_state(tmp_path, model, optimizer, step=1, logs=[log])
    log.write_text("one\ntwo\nthr")
    restore_state(tmp_path, model, optimizer, [log])
    assert log.read_text() == "one\n"


def test_without_a_state_everything_starts_anew(tmp_path: Path) -> None:
    model, optimizer = trained()
    log = tmp_path / "losses.jsonl"
    log.write_text("left over from a run that was killed before its first state\n")
    (tmp_path / f".{FILE}.123.tmp").write_text("half")
    assert restore_state(tmp_path, model, optimizer, [log]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_another_model_or_a_damaged_one_is_refused_by_name(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_state(tmp_path, model, optimizer, step=1, logs=[])
    with pytest.raises(ArtifactError, match=FILE) as caught:
        restore_state(tmp_path, *trained(width=5), [])
    assert str(tmp_path) in caught.value.hint
    for content in (b"", b"garbage" * 20, (tmp_path / FILE).read_bytes()[:-8]):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ArtifactError, match=FILE):
            restore_state(tmp_path, *trained(), [])


def test_a_failed_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained()
    save_state(tmp_path, model, optimizer, step=1, logs=[])
    before = (tmp_path / FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lianlu.train.checkpoint.os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        save_state(tmp_path, model, optimizer, step=2, logs=[])
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_finishing_keeps_the_figures_and_drops_the_state(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_state(tmp_path, model, optimizer, step=1, logs=[])
    assert finished(tmp_path) is None
    finish(tmp_path, {"loss": 1.5})
    assert finished(tmp_path) == {"loss": 1.5}
    assert not (tmp_path / FILE).exists()
