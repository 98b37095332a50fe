"""What `lianlu plan` prints: the tables of the steps that will run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lianlu.core.stage import Estimate, Stage, Table
from lianlu.core.store import Store
from lianlu.recipe.plan import plan_recipe, print_plan
from lianlu.recipe.recipe import Recipe, build_recipe
from lianlu.recipe.run import run_recipe
from lianlu.stages import STAGES

TABLE = Table("memory by class", ("class", "bytes"), (("weights", 12), ("total", 34)))


@pytest.fixture
def recipe(runs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    """A recipe of one step whose estimate has a table."""
    fake: Any = sys.modules[STAGES["read"].module]
    module: Any = ModuleType("fake_with_table")
    module.Config, module.run = fake.Config, fake.run
    module.estimate = lambda config: Estimate(2.0, 1000, "guess", (TABLE,))
    monkeypatch.setitem(sys.modules, "fake_with_table", module)
    monkeypatch.setitem(STAGES, "read", Stage("fake_with_table", "Config", "documents"))
    (tmp_path / "x").write_text("x")
    return build_recipe("r", {"steps": {"a": {"stage": "read", "source": str(tmp_path / "x")}}})


def test_tables_are_printed_under_the_name_of_their_step(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(plan_recipe(recipe, Store(tmp_path / "store")))
    text = capsys.readouterr().out
    assert text.index("plan") < text.index("a: memory by class") < text.index("weights") < text.index("1 steps to run")


def test_what_is_there_already_needs_no_tables(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    run_recipe(recipe, store)
    print_plan(plan_recipe(recipe, store))
    assert "memory by class" not in capsys.readouterr().out


def test_a_forecast_sees_the_inputs_that_are_there(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def forecast(config: Any) -> Estimate:
        seen.append(config.source)
        return Estimate(2.0, 1000, "guess")

    monkeypatch.setattr(sys.modules["fake_with_table"], "estimate", forecast)
    steps = {"a": {"stage": "read", "source": str(tmp_path / "x")}, "b": {"stage": "read", "source": "@a"}}
    store = Store(tmp_path / "store")
    whole = build_recipe("r", {"steps": steps})
    plan_recipe(whole, store)
    (made,) = run_recipe(whole.only(["a"]), store)
    plan_recipe(whole, store)
    assert seen == [str(tmp_path / "x"), "@a", str(made.artifact.path)]


def test_what_was_measured_before_keeps_the_tables(recipe: Recipe, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run_recipe(recipe, store)
    Path(recipe.steps[0].config.model_dump()["source"]).write_text("other")
    (row,) = plan_recipe(recipe, Store(store.root))
    assert row.estimate is not None
    assert (row.estimate.basis, row.estimate.tables) == ("measured before", (TABLE,))
