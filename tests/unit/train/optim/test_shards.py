"""Optimisers on shards (`cases_optim.py`), run by two processes at once."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from lianlu.train.optim.shards import Region

HERE = Path(__file__).parent
CASES = HERE / "cases_optim.py"
spawn = runpy.run_path(str(HERE.parent / "parallel" / "spawn.py"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return spawn["run_cases"]([CASES], 2, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("name", spawn["case_names"]([CASES]))
def test_two_processes(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == ""


def test_a_region_is_a_view() -> None:
    whole = torch.arange(24).view(4, 6)
    Region((2, 3), (1, 2)).of(whole).zero_()
    assert int((whole == 0).sum()) == 7
    assert Region((0, 6), (4, 0)).of(whole).numel() == 0
