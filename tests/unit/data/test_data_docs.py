"""docs/data.md says what the program does: rules, fields, verbs and recipes are those that are there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from lianlu.cli.main import app
from lianlu.core.config import with_overrides
from lianlu.data.clean import ALL_RULES, CleanConfig
from lianlu.data.read.raw import KINDS
from lianlu.data.rules.thresholds import shipped
from lianlu.recipe.recipe import build_recipe

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```console\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rules_table", ROOT / "scripts" / "rules_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_rules_is_that_of_the_thresholds(script: ModuleType) -> None:
    assert script.with_table(DOCS) == DOCS, "run python scripts/rules_table.py"
    for family in shipped():
        assert f"| `{family}` |" in DOCS


def test_every_family_and_every_kind_of_file_is_told() -> None:
    assert [rule for rule in ALL_RULES if f"`{rule}`" not in DOCS] == []
    assert [suffix for suffix in (*KINDS, ".jsonl", ".parquet", ".warc", ".zip", ".tar") if f"`{suffix}`" not in DOCS] == []


def test_recipes_are_valid() -> None:
    recipes = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)]
    whole = [recipe for recipe in recipes if "steps" in recipe]
    assert whole
    for recipe in whole:
        assert build_recipe("docs", recipe).steps


def test_command_lines_name_verbs_and_fields_that_are_there() -> None:
    lines = [shlex.split(line, comments=True) for block in SHELL for line in block.splitlines() if line.startswith("lianlu ")]
    assert len(lines) > 10
    for words in lines:
        verb = words[1:3] if words[1] == "data" else words[1:2]
        assert CliRunner().invoke(app, [*verb, "--help"]).exit_code == 0, words
    for words in (words for words in lines if words[1] == "clean"):
        fields = [word for word in words[2:] if "=" in word]
        CleanConfig.model_validate(with_overrides({}, fields))
