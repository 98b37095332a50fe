"""SPDX expressions: joined, and what they ask."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.licenses import canonicalize_license_expression

from lianlu.data.licences.expressions import all_of, any_of, kind_of, terms

TEXTS = tomllib.loads((files("lianlu.data.licences") / "texts.toml").read_text("utf-8"))["text"]
NAMES = st.sampled_from(["MIT", "Apache-2.0", "GPL-2.0-only", "MPL-2.0", "Apache-2.0 WITH LLVM-exception"])


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("MIT", "permissive"), ("apache-2.0", "permissive"), ("GPL-3.0-or-later", "copyleft"), ("LGPL-2.1+", "weak"),
        ("MIT OR GPL-2.0-only", "permissive"), ("MIT AND GPL-2.0-only", "copyleft"), ("(MIT OR GPL-2.0) AND MPL-2.0", "weak"),
        ("Apache-2.0 WITH LLVM-exception", "permissive"), ("MIT AND Proprietary", "unknown"), ("", "unknown"), ("((", "unknown"),
        ("MIT/Apache-2.0", "permissive"), ('["mit", "apache-2.0"]', "permissive"), ('["MIT", "GPL-3.0"]', "copyleft"),
        ("MIT License", "permissive"), ("The Apache License, Version 2.0", "permissive"), ("[]", "unknown"), ("[", "unknown"),
        ("Apache Software License", "permissive"), ("GNU", "unknown"), ("GPLv3", "copyleft"),
        ("Mozilla Public License 2.0", "unknown"), ("CC-BY-NC-4.0", "unknown"),
    ],
)  # fmt: skip
def test_what_a_licence_asks(expression: str, kind: str) -> None:
    assert kind_of(expression) == kind


def test_every_licence_whose_text_is_known_has_a_kind_and_a_name_of_spdx() -> None:
    names = {row["name"] for row in TEXTS}
    unknown = {name for name in names if kind_of(name) == "unknown"}
    assert unknown == {name for name in names if "-NC" in name or "-ND" in name}
    assert {canonicalize_license_expression(name) for name in names} == names
    assert [terms(name) for name in ("", "MIT", "MPL-2.0", "GPL-2.0", "NOASSERTION")] == [0, 0, 1, 2, 3]


def test_joining() -> None:
    assert all_of(["MIT", "", "MIT AND Apache-2.0", "MIT"]) == "MIT AND Apache-2.0"
    assert all_of(["MIT OR ISC", "MPL-2.0"]) == "(MIT OR ISC) AND MPL-2.0"
    assert all_of(["MIT OR ISC"]) == "MIT OR ISC"
    assert any_of(["MIT", "GPL-2.0 AND ISC", "MIT"]) == "MIT OR GPL-2.0 AND ISC"
    assert all_of([]) == any_of([""]) == ""


@given(st.recursive(NAMES, lambda inner: st.tuples(st.sampled_from([all_of, any_of]), st.lists(inner, min_size=1, max_size=4))))
def test_what_is_joined_is_spdx_and_asks_what_its_parts_ask(tree: object) -> None:
    def joined(tree: object) -> tuple[str, int]:
        if isinstance(tree, str):
            return tree, terms(tree)
        assert isinstance(tree, tuple)
        join, (names, asked) = tree[0], zip(*map(joined, tree[1]), strict=True)
        return join(names), max(asked) if join is all_of else min(asked)

    expression, asked = joined(tree)
    assert canonicalize_license_expression(expression) == expression
    assert terms(expression) == asked


@given(st.text(alphabet="() ANDORWITHMIT+-./", max_size=40))
def test_any_expression_is_read(expression: str) -> None:
    assert kind_of(expression) in ("permissive", "weak", "copyleft", "unknown")
