from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lianlu.core.errors import ConfigError
from lianlu.recipe.recipe import build_recipe, load_recipe

TWO: dict[str, Any] = {
    "steps": {
        "whole": {"stage": "join", "parts": ["@a", "@b"]},
        "a": {"stage": "read", "source": "x"},
        "b": {"stage": "read", "source": "y"},
    }
}


@pytest.mark.usefixtures("runs")
class TestRecipe:
    def test_steps_come_after_what_they_need(self) -> None:
        assert [step.name for step in build_recipe("r", TWO).steps] == ["a", "b", "whole"]

    def test_only_keeps_what_is_needed(self) -> None:
        assert [step.name for step in build_recipe("r", TWO).only(["b"]).steps] == ["b"]
        with pytest.raises(ConfigError, match="did you mean whole"):
            build_recipe("r", TWO).only(["whol"])

    def test_stage_defaults_to_the_name_of_the_step(self) -> None:
        assert build_recipe("r", {"steps": {"read": {"source": "x"}}}).steps[0].stage_name == "read"

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ({}, "has no steps"),
            ({"stps": {}}, "did you mean steps"),
            ({"steps": {"a": 3}}, "steps.a is not a table"),
            ({"steps": {"a": {"stage": "raed"}}}, "did you mean read"),
            ({"steps": {"a": {"stage": "read", "source": "@b"}}}, "unknown step named by steps.a: b"),
            ({"steps": {"read": {"source": "x", "sufix": ""}}}, "unknown field steps.read.sufix; did you mean suffix"),
            (
                {"steps": {"a": {"stage": "join", "parts": ["@b"]}, "b": {"stage": "join", "parts": ["@a"]}}},
                "the steps form a cycle: a -> b -> a",
            ),
            ({"steps": {"a": {"stage": "join", "parts": ["@a"]}}}, "cycle: a -> a"),
            (
                {"steps": {"r": {"stage": "read", "source": "x"}, "n": {"stage": "needs-model", "model": "@r"}}},
                "steps.n.model = '@r' is a documents",
            ),
        ],
    )
    def test_mistakes_are_explained(self, table: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as error:
            build_recipe("r", table)
        assert message in error.value.message

    def test_overrides_are_laid_over_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "my.toml"
        path.write_text('[steps.read]\nsource = "x"\n')
        recipe = load_recipe(path, ["steps.read.source=other", "steps.read.suffix=!"])
        assert recipe.name == "my"
        assert recipe.steps[0].config.model_dump() == {"source": "other", "suffix": "!"}

    def test_what_a_step_makes_may_depend_on_its_configuration(self) -> None:
        sft = {"model": "smollm2-135m-instruct", "data": "x.jsonl"}
        merge = {"model": "smollm2-135m-instruct", "adapter": "@sft"}
        assert build_recipe("r", {"steps": {"sft": sft, "merge": merge}}).steps[0].kind == "adapter"
        with pytest.raises(ConfigError, match="'@sft' is a checkpoint"):
            build_recipe("r", {"steps": {"sft": {**sft, "tune": {"kind": "full"}}, "merge": merge}})
