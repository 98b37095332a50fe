"""From a configuration to the tables of `lianlu plan`, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from lianlu.core.config import validate
from lianlu.model.config import preset
from lianlu.train.config import TrainConfig
from lianlu.train.plan.forecast import Work, forecast, planned_bytes, setting_of
from lianlu.train.plan.setting import Adapter

TINY = preset("internlm2-tiny")
WORK = Work(tokens=1e6, batch_tokens=4096, sequence=256, longest=512)


def config(**changes: Any) -> TrainConfig:
    return validate(TrainConfig, {"precision": "bfloat16", **changes})


def test_the_tables_say_what_the_estimate_says() -> None:
    estimate = forecast(TINY, WORK, config())
    memory, time, layouts, ways = estimate.tables
    assert memory.rows[-1][0] == "total"
    assert sum("(peak)" in column for column in memory.columns) == 1
    assert all(len(row) == len(table.columns) for table in estimate.tables for row in table.rows)
    assert [row[0] for row in ways.rows] == ["full", "lora", "qlora"]
    assert len(layouts.rows) == 6
    assert len(time.rows) == 1
    assert estimate.memory_bytes == planned_bytes(TINY, WORK, config(), 1, gpu=False)
    assert estimate.seconds > 0


@pytest.mark.parametrize(
    ("micro_tokens", "work", "at_once", "accumulates"),
    [
        (8192, WORK, 4096, False),
        (1024, WORK, 1024, True),
        (128, WORK, 512, True),  # a sequence is not cut
    ],
)
def test_tokens_at_once(micro_tokens: int, work: Work, at_once: int, accumulates: bool) -> None:
    setting = setting_of(TINY, work, config(micro_tokens=micro_tokens))
    assert (setting.micro_tokens, setting.accumulates) == (at_once, accumulates)


def test_processes_divide_a_batch() -> None:
    parallel = {"tensor": 2, "sharding": "gradient"}
    setting = setting_of(TINY, WORK, config(parallel=parallel), num_devices=8)
    assert (setting.division.data, setting.division.tensor, setting.micro_tokens) == (4, 2, 1024)


def test_an_adapter_needs_less_and_is_faster() -> None:
    full, low = (forecast(TINY, Work(1e6, 4096, 256, 512, adapter=adapter), config()) for adapter in (None, Adapter(8)))
    assert low.memory_bytes < full.memory_bytes
    assert low.seconds < full.seconds


def test_planning_imports_no_torch() -> None:
    code = "import sys, lianlu.train.plan.forecast, lianlu.train.flops; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
