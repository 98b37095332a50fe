"""Which states are kept, over all sequences of steps and figures; and what a folder of states says about itself."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.config import validate
from lianlu.core.errors import ArtifactError
from lianlu.train.checkpoint.folder import (
    RECORD,
    best,
    commit,
    hidden,
    kept,
    kept_on_purpose,
    read_state,
    remove,
    state_folder,
    steps,
    sweep,
)
from lianlu.train.checkpoint.storage import DamagedError, StateRecord
from lianlu.train.config import CheckpointConfig

FIGURES = st.dictionaries(
    st.integers(1, 40), st.none() | st.sampled_from([0.5, 1.0, math.nan, math.inf]) | st.floats(0, 9), max_size=12
)
POLICIES = st.builds(
    CheckpointConfig, keep_last=st.integers(1, 4), keep_every=st.integers(0, 7), keep_best=st.booleans(), every=st.just(1)
)


@given(FIGURES, POLICIES)
def test_what_is_kept_is_what_the_policy_says(figures: dict[int, float | None], policy: CheckpointConfig) -> None:
    chosen = kept(figures, policy)
    newest = sorted(figures)[-policy.keep_last :]
    assert set(newest) <= chosen <= set(figures)
    judged = {step: figure for step, figure in figures.items() if figure is not None and math.isfinite(figure)}
    for step in set(figures) - set(newest):
        wanted = bool(policy.keep_every) and step % policy.keep_every == 0
        if policy.keep_best and step in judged:
            others = [other for other, figure in judged.items() if figure == judged[step]]
            wanted = wanted or (judged[step] == min(judged.values()) and step == min(others))
        assert (step in chosen) == wanted
    assert kept_on_purpose(figures, policy) == {step for step in chosen if step not in newest} | kept_on_purpose(
        {step: figures[step] for step in chosen}, policy
    )


@given(st.lists(st.none() | st.floats(0, 9, allow_nan=False), min_size=1, max_size=15), POLICIES)
def test_pruning_step_by_step_keeps_what_pruning_at_the_end_would(sequence: list[float | None], policy: CheckpointConfig) -> None:
    """A state that was dropped is never wanted later, so nothing is lost by dropping at once."""
    held: dict[int, float | None] = {}
    for step, figure in enumerate(sequence, start=1):
        held[step] = figure
        held = {own: held[own] for own in kept(held, policy)}
    assert set(held) == kept(dict(enumerate(sequence, start=1)), policy)


def test_without_a_figure_there_is_no_best() -> None:
    assert best({}) is None
    assert best({1: None, 2: math.nan}) is None
    assert best({1: 0.5, 2: 0.25, 3: 0.25, 4: None}) == 2


def write_state(folder: Path, step: int, **fields: Any) -> Path:
    """A state of one file without tensors."""
    written = hidden(state_folder(folder, step))
    written.mkdir(parents=True)
    (written / "rank-00000.safetensors").write_bytes(b"0123456789")
    commit(folder, step, StateRecord(step=step, files={"rank-00000.safetensors": 0}, **fields))
    return state_folder(folder, step)


def test_a_state_has_a_name_only_when_it_is_whole(tmp_path: Path) -> None:
    write_state(tmp_path, 12, figure=0.5, logs={"losses.jsonl": 7})
    assert steps(tmp_path) == [12]
    record = read_state(tmp_path, 12).record
    assert (record.step, record.figure, record.logs, record.files) == (
        12,
        0.5,
        {"losses.jsonl": 7},
        {"rank-00000.safetensors": 10},
    )
    hidden(state_folder(tmp_path, 13)).mkdir()
    with pytest.raises(ArtifactError, match="step-00000013"):
        commit(tmp_path, 13, StateRecord(step=13, files={"rank-00000.safetensors": 0}))
    assert steps(tmp_path) == [12]
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"step": "x"}', '{"step": 1, "format": 99}', '{"step":1,"files":{"a":3}}']
)
def test_a_record_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (write_state(tmp_path, 1) / RECORD).write_text(text)
    with pytest.raises(DamagedError, match="step-00000001") as caught:
        read_state(tmp_path, 1)
    assert caught.value.hint


def test_a_missing_or_short_file_is_noticed(tmp_path: Path) -> None:
    file = write_state(tmp_path, 1) / "rank-00000.safetensors"
    file.write_bytes(b"012345678")
    with pytest.raises(DamagedError, match="9 bytes where 10 were written"):
        read_state(tmp_path, 1)
    file.unlink()
    with pytest.raises(DamagedError, match="is missing"):
        read_state(tmp_path, 1)


def test_a_damaged_state_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    state = write_state(tmp_path, 1)
    (state / RECORD).unlink()
    write_state(tmp_path, 1, figure=3.0)
    assert json.loads((state / RECORD).read_text())["figure"] == 3.0


def test_removing_never_leaves_half_a_state_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, seen = write_state(tmp_path, 1), []
    real = shutil.rmtree

    def watched(path: Path, **options: Any) -> None:
        seen.append(Path(path).name)
        real(path, **options)

    monkeypatch.setattr("lianlu.train.checkpoint.folder.shutil.rmtree", watched)
    remove(state)
    assert steps(tmp_path) == []
    assert set(seen) == {".step-00000001.tmp"}
    remove(state)


def test_other_names_are_no_states(tmp_path: Path) -> None:
    for name in ("step-x", "step-", "other", ".step-00000004.tmp"):
        (tmp_path / name).mkdir()
    assert steps(tmp_path) == []
    assert steps(tmp_path / "nowhere") == []
    assert validate(CheckpointConfig, {}).keep_last == 1
