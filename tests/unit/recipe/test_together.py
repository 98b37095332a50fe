"""A recipe in several processes, played by threads: who runs what, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lianlu.core.errors import ArtifactError
from lianlu.core.store import Store
from lianlu.recipe import together
from lianlu.recipe.recipe import Recipe, build_recipe
from lianlu.recipe.run import Ran
from lianlu.stages import STAGES

SIZE = 3
Play = Callable[[Recipe, Store], list[list[Ran]]]


class Spoken:
    """Words between threads."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self._changed = threading.Condition()

    def give(self, key: str, said: Any) -> None:
        with self._changed:
            assert key not in self.said
            self.said[key] = said
            self._changed.notify_all()

    def hear(self, key: str) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: key in self.said, timeout=20)
            return self.said[key]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a recipe as `SIZE` processes."""
    place = threading.local()
    processes = SimpleNamespace(is_main=lambda: place.rank == 0, rank=lambda: place.rank, num_processes=lambda: SIZE)
    monkeypatch.setattr(together, "processes", processes)

    def played(recipe: Recipe, store: Store) -> list[list[Ran]]:
        word = Spoken()
        monkeypatch.setattr(together, "Word", lambda: word)

        def run(rank: int) -> list[Ran]:
            place.rank = rank
            return together.run_together(recipe, store)

        with ThreadPoolExecutor(SIZE) as pool:
            return list(pool.map(run, range(SIZE)))

    return played


@pytest.fixture
def recipe(tmp_path: Path, runs: list[str]) -> Recipe:
    (tmp_path / "x").write_text("x")
    STAGES["join"] = replace(STAGES["join"], distributed=True)
    steps = {"a": {"stage": "read", "source": str(tmp_path / "x")}, "both": {"stage": "join", "parts": ["@a", "@a"]}}
    return build_recipe("r", {"steps": steps})


def test_the_main_process_works_alone_until_a_stage_is_for_all(
    play: Play, recipe: Recipe, runs: list[str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    ran = play(recipe, store)
    assert sorted(runs) == ["join"] * SIZE + ["read"]
    assert [[r.artifact.id for r in own] for own in ran] == [[r.artifact.id for r in ran[0]]] * SIZE
    assert all(r.made for own in ran for r in own)
    assert (ran[2][1].artifact.path / "text").read_text() == "x+x"


def test_what_is_there_is_run_by_nobody(play: Play, recipe: Recipe, runs: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    play(recipe, store)
    runs.clear()
    ran = play(recipe, store)
    assert runs == []
    assert not any(r.made for own in ran for r in own)


def test_an_artifact_that_other_machines_do_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(together, "VISIBLE_S", 0.1)
    with pytest.raises(ArtifactError, match="not in") as caught:
        together._found(Store(tmp_path / "elsewhere"), "read-0123456789ab")
    assert "LIANLU_HOME" in caught.value.hint
