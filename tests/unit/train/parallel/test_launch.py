"""Whole commands under torchrun: two training stages against one process, and a third that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lianlu.core.store import Artifact, Store
from lianlu.recipe.recipe import build_recipe
from lianlu.recipe.run import run_recipe
from lianlu.recipe.toml_text import dump_toml

MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
COMMON = {"precision": "float32", "batch_tokens": 200, "sample_tokens": 3}


@pytest.fixture(scope="module")
def table(shards: Path, conversations: Path) -> dict[str, Any]:
    pre = {"stage": "pretrain", "data": str(shards), "model": MODEL, "steps": 3, "sequence_length": 32, "held_out_tokens": 200}
    tune = {"stage": "sft", "model": "@pre", "data": str(conversations), "steps": 3, "max_length": 200, "num_samples": 1}
    return {"steps": {"pre": {**pre, **COMMON}, "tune": {**tune, **COMMON, "tune": {"kind": "lora", "dora": True}}}}


def launch(folder: Path) -> subprocess.CompletedProcess[str]:
    """`torchrun -m lianlu run` in `folder`, with a store of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIANLU_HOME": str(folder / "store")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "lianlu", "run", "r.toml"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def curve(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "losses.jsonl").read_text().splitlines()]


@pytest.mark.e2e
def test_two_processes_make_what_one_makes_and_fail_with_one_message(table: dict[str, Any], tmp_path: Path) -> None:
    refused = {**table["steps"]["tune"], "seed": 1, "parallel": {"tensor": 2}}
    (tmp_path / "r.toml").write_text(dump_toml({"steps": {**table["steps"], "refused": refused}}))
    done = launch(tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("[2/3] tune") == 1, done.stderr[-3000:]
    assert done.stderr.count("tensor parallelism divides plain weights only") == 1, done.stderr[-3000:]
    store = Store(tmp_path / "store")
    for wanted in run_recipe(build_recipe("r", table), Store(tmp_path / "one")):
        got = store.get(f"@{wanted.step.name}")
        assert [file.path for file in got.manifest.files] == [file.path for file in wanted.artifact.manifest.files]
        for record, other in zip(curve(got), curve(wanted.artifact), strict=True):
            assert record == pytest.approx(other, rel=1e-5)
        weights = "model.safetensors" if wanted.step.name == "pre" else "adapter_model.safetensors"
        tensors, expected = load_file(got.path / weights), load_file(wanted.artifact.path / weights)
        assert tensors.keys() == expected.keys()
        assert all((tensors[name] - tensor).abs().max() < 1e-4 for name, tensor in expected.items())
        assert got.manifest.figures["loss"] == pytest.approx(wanted.artifact.manifest.figures["loss"], rel=1e-5)
