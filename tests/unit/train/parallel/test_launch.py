"""Whole commands under torchrun: two training stages against one process, and a third that fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
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


def start(folder: Path) -> subprocess.Popen[str]:
    """`torchrun -m lianlu run` in `folder`, with a store of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIANLU_HOME": str(folder / "store")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "lianlu", "run", "r.toml"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_all(folder: Path) -> None:
    """Kill -9 every process whose store is in `folder`: torchrun and its workers, which are sessions of their own."""
    mark = f"LIANLU_HOME={folder / 'store'}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def logged_steps(folder: Path) -> int:
    """Steps in the log of the run at work."""
    logs = list(folder.glob("store/work/*/losses.jsonl"))
    return logs[0].read_text().count('"loss"') if logs else 0


def curve(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "losses.jsonl").read_text().splitlines()]


@pytest.mark.e2e
def test_two_processes_make_what_one_makes_and_fail_with_one_message(table: dict[str, Any], tmp_path: Path) -> None:
    refused = {**table["steps"]["tune"], "seed": 1, "parallel": {"tensor": 2}}
    (tmp_path / "r.toml").write_text(dump_toml({"steps": {**table["steps"], "refused": refused}}))
    done = start(tmp_path)
    said = done.communicate(timeout=120)[1]
    assert done.returncode != 0
    assert said.count("[2/3] tune") == 1, said[-3000:]
    assert said.count("tensor parallelism divides plain weights only") == 1, said[-3000:]
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


@pytest.mark.e2e
def test_a_run_killed_in_two_processes_goes_on_in_one(shards: Path, tmp_path: Path) -> None:
    pre = {"stage": "pretrain", "data": str(shards), "model": MODEL, "steps": 40, "sequence_length": 32, "held_out_tokens": 200}
    table = {"steps": {"pre": {**pre, **COMMON, "checkpoint": {"every": 3}, "eval_every": 10}}}
    (tmp_path / "r.toml").write_text(dump_toml(table))
    running = start(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while logged_steps(tmp_path) < 8 and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        kill_all(tmp_path)
    said = running.communicate(timeout=20)[1]
    assert 8 <= logged_steps(tmp_path) < 40, said[-3000:]
    (got,) = run_recipe(build_recipe("r", table), Store(tmp_path / "store"))
    (wanted,) = run_recipe(build_recipe("r", table), Store(tmp_path / "one"))
    assert len(curve(got.artifact)) == len(curve(wanted.artifact)) == 45
    for record, other in zip(curve(got.artifact), curve(wanted.artifact), strict=True):
        assert record == pytest.approx(other, rel=1e-5)
