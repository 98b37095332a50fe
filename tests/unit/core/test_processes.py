"""What torchrun's environment says about a process."""

from __future__ import annotations

import pytest

from lianlu.core import processes


def test_one_process_alone_is_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.num_processes(), processes.rank(), processes.local_rank()) == (1, 0, 0)
    assert processes.is_main()


def test_a_rank_left_over_in_the_environment_means_nothing_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes.is_main()
    assert processes.local_rank() == 0


def test_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert (processes.num_processes(), processes.rank(), processes.local_rank()) == (8, 5, 1)
    assert not processes.is_main()
