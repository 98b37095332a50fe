"""The cases of `cases_states.py`, run by two processes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..parallel.spawn import case_names, run_cases

pytestmark = pytest.mark.e2e
FILES = [Path(__file__).with_name("cases_states.py")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_cases(FILES, 2, tmp_path_factory.mktemp("states"))


@pytest.mark.parametrize("name", case_names(FILES))
def test_two_processes(results: dict[str, str], name: str) -> None:
    assert not results[name], results[name]
