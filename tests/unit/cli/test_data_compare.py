"""`lianlu data compare`: prints its recipe, runs it, and writes what it found."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lianlu.cli.main import call
from lianlu.core.config import read_toml
from lianlu.recipe.recipe import build_recipe

SMALL = ["hidden_size=16", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=1", "num_key_value_heads=1"]


def test_a_comparison_is_printed_as_a_recipe_then_run_and_found_again(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)
    words = ["stone", "river", "house", "light", "under", "seven"]
    for name, count in (("train", 30), ("judge", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.txt").write_text(" ".join(draw.choices(words, k=70)) + f" {name}")
    for name, limit in (("all", 100_000), ("some", 300_000)):
        text = f'source = "{tmp_path / "train"}"\nrules = []\nmax_document_bytes = {limit}\n'
        (tmp_path / f"{name}.toml").write_text(text)
    files = [str(tmp_path / "all.toml"), str(tmp_path / "some.toml")]
    told = ["--tokens", "500", "--seeds", "2", "--held-out", str(tmp_path / "judge"), "--out", str(tmp_path / "found")]
    settings = ["tokenizer.vocab_size=512", "pretrain.batch_tokens=100", "pretrain.sequence_length=32"]
    command = ["data", "compare", *files, *settings, *(f"pretrain.model.{field}" for field in SMALL), *told]
    assert call([*command, "--dry-run"], debug=True) == 0
    assert not home.exists()
    (tmp_path / "whole.toml").write_text(capsys.readouterr().out)
    recipe = build_recipe("whole", read_toml(tmp_path / "whole.toml"))
    assert [step.name for step in recipe.steps][-4:] == ["all-pretrain-0", "some-pretrain-0", "all-pretrain-1", "some-pretrain-1"]
    assert call(command, debug=True) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    # the same documents, so the same models
    assert found["difference"]["by_seed"] == [0.0, 0.0]
    assert found["held_out"]["documents"] == 4
    assert not found["difference"]["significant"]
    assert "no difference is shown" in printed
    assert "no difference is shown" in (tmp_path / "found.md").read_text()
    assert call(["trace", "@some-pretrain-1"], debug=True) == 0
    assert "compare-held-out" in capsys.readouterr().out
