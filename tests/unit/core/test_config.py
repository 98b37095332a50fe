from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from lianlu.core.config import (
    Checkpoint,
    Config,
    Documents,
    canonical,
    describe,
    input_fields,
    merge,
    parse_override,
    read_toml,
    validate,
    with_overrides,
)
from lianlu.core.errors import ConfigError
from lianlu.recipe.toml_text import dump_toml


class Lora(Config):
    kind: Literal["lora"] = "lora"
    rank: int = 8
    """Rank of the update."""
    alpha: float = 1.0


class Full(Config):
    kind: Literal["full"] = "full"


class Optim(Config):
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate."""


class Example(Config):
    data: Documents
    """Where the text is."""
    models: list[Checkpoint] = Field(default=[])
    teacher: Checkpoint | None = None
    optim: Optim = Optim()
    tune: Annotated[Lora | Full, Field(discriminator="kind")] = Lora()


def test_override_is_a_toml_line() -> None:
    assert parse_override("optim.lr=3e-4") == {"optim": {"lr": 3e-4}}
    assert parse_override("a=[1, 2]") == {"a": [1, 2]}


def test_bare_word_is_a_string() -> None:
    assert parse_override("source=docs/my notes") == {"source": "docs/my notes"}
    assert parse_override("data=@clean") == {"data": "@clean"}
    assert parse_override('q=say "hi"\\now') == {"q": 'say "hi"\\now'}


@pytest.mark.parametrize("text", ["noequals", "=3", "a b=3\n[x]"])
def test_bad_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        parse_override(text)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown field steps.x.optim.lrr; did you mean lr\?"):
        validate(Example, {"data": "d", "optim": {"lrr": 1}}, where="steps.x")


def test_unknown_key_inside_a_union_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean rank"):
        validate(Example, {"data": "d", "tune": {"kind": "lora", "rnk": 1}})


def test_missing_and_wrong_values_are_named() -> None:
    with pytest.raises(ConfigError, match="data is required"):
        validate(Example, {})
    with pytest.raises(ConfigError, match=r"optim.lr: .* \(got -1\)"):
        validate(Example, {"data": "d", "optim": {"lr": -1}})


def test_changing_the_kind_drops_the_fields_of_the_other() -> None:
    table = with_overrides({"data": "d", "tune": {"kind": "lora", "rank": 4}}, ["tune.kind=full"])
    assert validate(Example, table).tune == Full()
    table = with_overrides({"data": "d", "tune": {"kind": "lora", "rank": 4}}, ["tune.rank=2"])
    assert validate(Example, table).tune == Lora(rank=2)


def test_the_order_of_overrides_does_not_count() -> None:
    for order in (["tune.rank=2", "tune.kind=lora"], ["tune.kind=lora", "tune.rank=2"]):
        table = with_overrides({"data": "d", "tune": {"kind": "full"}}, order)
        assert validate(Example, table).tune == Lora(rank=2)


def test_a_table_starts_from_what_the_default_sets() -> None:
    class Stage(Example):
        tune: Annotated[Lora | Full, Field(discriminator="kind")] = Lora(rank=64)
        optim: Optim = Optim(lr=0.5)

    assert validate(Stage, {"data": "d", "tune": {}, "optim": {}}).tune == Lora(rank=64)
    assert validate(Stage, {"data": "d", "tune": {"kind": "full"}}).tune == Full()
    assert validate(Stage, {"data": "d", "optim": {"lr": 0.1}}).optim == Optim(lr=0.1)
    assert validate(Stage, {"data": "d", "optim": {}}).optim == Optim(lr=0.5)
    with pytest.raises(ConfigError, match=r"tune.kind: there is no lor"):
        validate(Stage, {"data": "d", "tune": {"kind": "lor"}})


def test_a_union_without_its_kind_is_of_the_default_kind() -> None:
    assert validate(Example, with_overrides({"data": "d"}, ["tune.rank=2"])).tune == Lora(rank=2)
    with pytest.raises(ConfigError, match="did you mean rank"):
        validate(Example, with_overrides({"data": "d"}, ["tune.rnk=2"]))


def test_a_table_keeps_what_it_does_not_say_of_the_default() -> None:
    class Eager(Config):
        tune: Annotated[Lora | Full, Field(discriminator="kind")] = Lora(rank=64, alpha=3.0)
        inner: Optim = Optim(lr=0.5)

    assert validate(Eager, {"tune": {"rank": 2}}).tune == Lora(rank=2, alpha=3.0)
    assert validate(Eager, {"tune": {"kind": "lora", "rank": 2}}).tune == Lora(rank=2, alpha=3.0)
    assert validate(Eager, {"tune": {"kind": "full"}}).tune == Full()
    assert validate(Eager, {"inner": {}}).inner == Optim(lr=0.5)
    assert validate(Eager, canonical(Eager(tune=Lora()))) == Eager(tune=Lora())
    with pytest.raises(ConfigError, match="did you mean rank"):
        validate(Eager, {"tune": {"rnk": 2}})


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"steps.sft.tune.kind: there is no lor, only lora, full; did you mean lora\?"):
        validate(Example, with_overrides({"data": "d"}, ["tune.kind=lor"]), where="steps.sft")


def test_input_fields_are_found_through_lists_and_options() -> None:
    assert {name: mark.kinds for name, mark in input_fields(Example).items()} == {
        "data": ("documents",),
        "models": ("checkpoint",),
        "teacher": ("checkpoint",),
    }


def test_describe_lists_nested_fields_with_help() -> None:
    rows = {row[0]: row for row in describe(Example)}
    assert rows["data"] == ("data", "str", "required", "Where the text is.")
    assert rows["optim.lr"][2:] == ("0.001", "Learning rate.")
    assert rows["tune[lora].rank"][3] == "Rank of the update."


def test_missing_and_broken_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_toml(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_toml(tmp_path)
    (tmp_path / "bad.toml").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match=r"bad.toml is not valid TOML"):
        read_toml(tmp_path / "bad.toml")


values = st.recursive(
    st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3),
)
tables = st.recursive(
    st.dictionaries(st.text("ab-_ .", min_size=1), values, max_size=3),
    lambda inner: st.dictionaries(st.text("xyz", min_size=1), inner | values, max_size=3),
    max_leaves=6,
)


@given(tables)
def test_written_toml_reads_back_equal(table: dict[str, object]) -> None:
    assert tomllib.loads(dump_toml(table)) == table


@given(tables)
def test_merge_with_itself_changes_nothing(table: dict[str, object]) -> None:
    assert merge(table, table) == table


def test_canonical_holds_the_defaults() -> None:
    assert canonical(validate(Example, {"data": "d"}))["optim"] == {"lr": 1e-3}
