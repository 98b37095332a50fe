"""All cases of the files below, each run once, by as many processes at once as the number says."""

from __future__ import annotations

from pathlib import Path

import pytest

from .spawn import case_names, run_cases

pytestmark = pytest.mark.e2e
HERE = Path(__file__).parent
FILES = {
    2: [HERE / "cases_two.py"],
    4: [HERE / "cases_four.py", HERE / "cases_stages.py"],
}


NAMES = {size: case_names(files) for size, files in FILES.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_cases(FILES[2], 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_cases(FILES[4], 4, tmp_path_factory.mktemp("four"))


@pytest.mark.parametrize("name", NAMES[2])
def test_two_processes(name: str, two: dict[str, str]) -> None:
    assert not two[name], two[name]


@pytest.mark.parametrize("name", NAMES[4])
def test_four_processes(name: str, four: dict[str, str]) -> None:
    assert not four[name], four[name]
