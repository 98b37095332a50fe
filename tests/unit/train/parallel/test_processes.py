"""All cases of the files below, each run once, by as many processes at once as the number says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
FILES = {
    2: [HERE / "cases_two.py"],
    4: [HERE / "cases_four.py", HERE / "cases_stages.py"],
}


def load_spawn() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lianlu_spawn", HERE / "spawn.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SPAWN = load_spawn()
NAMES = {size: SPAWN.case_names(files) for size, files in FILES.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return dict(SPAWN.run_cases(FILES[2], 2, tmp_path_factory.mktemp("two")))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return dict(SPAWN.run_cases(FILES[4], 4, tmp_path_factory.mktemp("four")))


@pytest.mark.parametrize("name", NAMES[2])
def test_two_processes(name: str, two: dict[str, str]) -> None:
    assert not two[name], two[name]


@pytest.mark.parametrize("name", NAMES[4])
def test_four_processes(name: str, four: dict[str, str]) -> None:
    assert not four[name], four[name]
