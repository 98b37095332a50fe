from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lianlu.core.errors import ArtifactError, ConfigError, DataError, LianluError
from lianlu.core.store import Store
from lianlu.recipe.garbage import find_garbage, remove
from lianlu.recipe.inputs import resolve_model
from lianlu.recipe.plan import plan_recipe
from lianlu.recipe.recipe import Recipe, build_recipe
from lianlu.recipe.run import run_recipe


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def recipe(folder: Path, **fields: Any) -> Recipe:
    for name in ("x", "y"):
        if not (folder / name).exists():
            (folder / name).write_text(name)
    steps: dict[str, Any] = {
        "a": {"stage": "read", "source": str(folder / "x")},
        "b": {"stage": "read", "source": str(folder / "y")},
        "whole": {"stage": "join", "parts": ["@a", "@b"]},
    }
    for key, value in fields.items():
        step, _, field = key.partition("_")
        steps[step][field] = value
    return build_recipe("r", {"steps": steps})


def test_second_run_does_nothing(runs: list[str], store: Store, tmp_path: Path) -> None:
    first = run_recipe(recipe(tmp_path), store)
    assert runs == ["read", "read", "join"]
    assert (first[-1].artifact.path / "text").read_text() == "x+y"
    second = run_recipe(recipe(tmp_path), Store(store.root))
    assert runs == ["read", "read", "join"]
    assert not any(result.made for result in second)
    assert [r.artifact.id for r in first] == [r.artifact.id for r in second]


def test_a_changed_field_reruns_that_step_and_what_follows(runs: list[str], store: Store, tmp_path: Path) -> None:
    run_recipe(recipe(tmp_path), store)
    runs.clear()
    assert [r.made for r in run_recipe(recipe(tmp_path, b_suffix="!"), store)] == [False, True, True]
    assert runs == ["read", "join"]


def test_a_changed_source_file_reruns(runs: list[str], store: Store, tmp_path: Path) -> None:
    run_recipe(recipe(tmp_path), store)
    (tmp_path / "x").write_text("new")
    assert [r.made for r in run_recipe(recipe(tmp_path), store)] == [True, False, True]


def test_equal_contents_stop_the_rerun(runs: list[str], store: Store, tmp_path: Path) -> None:
    run_recipe(recipe(tmp_path), store)
    (tmp_path / "x2").write_text("x")
    results = run_recipe(recipe(tmp_path, a_source=str(tmp_path / "x2")), store)
    assert [r.made for r in results] == [False, False, False]


def test_a_failed_step_continues_in_its_folder(runs: list[str], store: Store, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_recipe(recipe(tmp_path, whole_sign="fail"), store)
    assert store.list()[-1].manifest.step != "whole"
    assert [row.state for row in plan_recipe(recipe(tmp_path, whole_sign="fail"), store)] == ["reuse", "reuse", "continue"]
    with pytest.raises(ZeroDivisionError):
        run_recipe(recipe(tmp_path, whole_sign="fail"), store)
    assert runs == ["read", "read", "join", "join", "continued"]


def test_plan_says_run_reuse_and_why(runs: list[str], store: Store, tmp_path: Path) -> None:
    rows = plan_recipe(recipe(tmp_path), store)
    assert [row.state for row in rows] == ["run", "run", "run"]
    assert rows[2].because == "waits for @a"
    assert rows[0].estimate is not None
    assert rows[0].estimate.basis == "guess"
    run_recipe(recipe(tmp_path), store)
    assert [row.state for row in plan_recipe(recipe(tmp_path), store)] == ["reuse", "reuse", "reuse"]
    assert [row.state for row in plan_recipe(recipe(tmp_path, whole_sign="-"), store)] == ["reuse", "reuse", "run"]
    assert runs == ["read", "read", "join"]


def test_missing_inputs_are_explained(runs: list[str], store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        run_recipe(recipe(tmp_path, a_source=str(tmp_path / "gone.txt")), store)
    rows = plan_recipe(recipe(tmp_path, a_source="gone.txt"), store)
    assert (rows[0].state, rows[0].because) == ("run", "waits for gone.txt, which is not there")
    with pytest.raises(LianluError, match="smollm3"):
        plan_recipe(build_recipe("r", {"steps": {"n": {"stage": "needs-model", "model": "smollm3"}}}), store)


def test_manifest_tells_the_whole_story(runs: list[str], store: Store, tmp_path: Path) -> None:
    whole = run_recipe(recipe(tmp_path), store)[-1].artifact.manifest
    assert [(i.field, i.written) for i in whole.inputs] == [("parts", "@a"), ("parts", "@b")]
    assert whole.config == {"parts": ["@a", "@b"], "sign": "+"}
    assert whole.peak_memory_bytes > 1_000_000
    assert whole.device


def test_damage_stops_the_run_with_a_remedy_that_works(runs: list[str], store: Store, tmp_path: Path) -> None:
    made = run_recipe(recipe(tmp_path), store)
    (made[0].artifact.path / "text").write_text("")
    with pytest.raises(ArtifactError, match="has 0 bytes where 1 were written"):
        run_recipe(recipe(tmp_path), store)
    for row in find_garbage(store):
        if row.damaged:
            remove(store, row)
    assert [r.made for r in run_recipe(recipe(tmp_path), store)] == [True, False, False]


def test_garbage_is_what_nothing_current_was_made_from(runs: list[str], store: Store, tmp_path: Path) -> None:
    old = run_recipe(recipe(tmp_path), store)
    assert find_garbage(store) == []
    run_recipe(recipe(tmp_path, b_suffix="!"), store)
    assert {row.path.name for row in find_garbage(store)} == {old[1].artifact.id, old[2].artifact.id}


def test_models_on_the_command_line(runs: list[str], store: Store, tmp_path: Path) -> None:
    whole = run_recipe(recipe(tmp_path), store)[-1].artifact
    assert resolve_model("@whole", store) == whole.path
    assert resolve_model(whole.id[:9], store) == whole.path
    assert resolve_model(str(tmp_path / "x"), store) == tmp_path / "x"
    with pytest.raises(ArtifactError, match="@nope"):
        resolve_model("@nope", store)


def test_unknown_model_name_is_refused(runs: list[str], store: Store) -> None:
    with pytest.raises((ConfigError, DataError)):
        resolve_model("no-such-model", store)
