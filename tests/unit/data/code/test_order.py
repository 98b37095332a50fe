"""The order of a repository's files, on any graph of imports."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Set

import networkx
from hypothesis import example, given
from hypothesis import strategies as st

from lianlu.data.code.order import components, dependency_order, with_docs
from lianlu.data.code.tree import folder_of

Graph = Mapping[str, Set[str]]
NAMES = [f"{folder}{name}.py" for folder in ("", "a/", "a/b/", "c/") for name in "mnopq"]


EDGES = st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from([*NAMES, "gone.py"])), max_size=40)


def graphs() -> st.SearchStrategy[tuple[dict[str, set[str]], dict[str, set[str]]]]:
    """Early and late imports among some files, a few of them to files that are not there."""

    def made(files: set[str], early: set[tuple[str, str]], late: set[tuple[str, str]]) -> tuple[dict[str, set[str]], ...]:
        return tuple({file: {b for a, b in edges if a == file} for file in sorted(files)} for edges in (early, late))

    return st.builds(made, st.sets(st.sampled_from(NAMES)), EDGES, EDGES)  # type: ignore[arg-type]


def reachable(graph: Graph, inside: Set[str]) -> networkx.DiGraph:
    made = networkx.DiGraph()
    made.add_nodes_from(inside)
    made.add_edges_from((file, target) for file in inside for target in graph.get(file, ()) if target in inside)
    return made


def joined(a: Graph, b: Graph) -> dict[str, set[str]]:
    return {file: {*a.get(file, ()), *b.get(file, ())} for file in {*a, *b}}


@given(graphs(), st.randoms(use_true_random=False))
@example(({"a": {"b"}, "b": {"a"}, "c": {"a"}}, {}), random.Random(0))
def test_every_file_once_needs_first_where_no_cycle_forbids_it_for_any_order_of_input(
    found: tuple[dict[str, set[str]], dict[str, set[str]]], rng: random.Random
) -> None:
    needs, late = found
    order = dependency_order(needs, needs, late)
    assert sorted(order) == sorted(needs)
    place = {file: number for number, file in enumerate(order)}
    every = reachable(joined(needs, late), needs.keys())
    cycle = {file: number for number, part in enumerate(networkx.strongly_connected_components(every)) for file in part}
    for file, target in every.edges:
        assert place[target] < place[file] or cycle[file] == cycle[target]
    early = reachable(needs, needs.keys())
    own = {file: number for number, part in enumerate(networkx.strongly_connected_components(early)) for file in part}
    for file, target in early.edges:  # a late import never pushes aside an early one
        assert place[target] < place[file] or own[file] == own[target]
    shuffled = rng.sample(sorted(needs), len(needs))
    assert (
        dependency_order(shuffled, {file: set(rng.sample(sorted(needs[file]), len(needs[file]))) for file in shuffled}, late)
        == order
    )


@given(graphs())
def test_components_are_those_of_networkx(found: tuple[dict[str, set[str]], dict[str, set[str]]]) -> None:
    graph = reachable(found[0], found[0].keys())
    ours = components(sorted(graph), {file: set(graph.successors(file)) for file in graph})
    assert sorted(ours) == sorted(sorted(part) for part in networkx.strongly_connected_components(graph))


def test_ties_take_the_shorter_path_then_the_alphabet() -> None:
    needs = {"main": {"deep", "flat", "also_flat"}, "deep": {"leaf"}, "flat": set(), "also_flat": set(), "leaf": set()}
    assert dependency_order(needs, needs) == ["also_flat", "flat", "leaf", "deep", "main"]


def test_a_cycle_begins_with_its_alphabetically_first_file() -> None:
    needs = {"x": {"y"}, "y": {"z"}, "z": {"x"}, "user": {"z"}}
    assert dependency_order(needs, needs) == ["x", "z", "y", "user"]


def test_a_cycle_is_cut_at_its_late_import() -> None:
    assert dependency_order("ab", {"a": {"b"}}, {"b": {"a"}}) == ["b", "a"]
    assert dependency_order("ab", {"b": {"a"}}, {"a": {"b"}}) == ["a", "b"]


def test_a_long_chain_and_a_large_cycle_do_not_end_the_program() -> None:
    chain = [f"{number:05d}" for number in range(5000)]
    needs = {file: {after} for file, after in itertools.pairwise(chain)}
    assert dependency_order(chain, needs) == chain[::-1]
    ring = {**needs, chain[-1]: {chain[0]}}
    assert dependency_order(chain, ring) == [chain[0], *chain[:0:-1]]


def test_a_cycle_of_thousands_of_imports_each_ends_too() -> None:
    files = [f"{number:04d}" for number in range(600)]
    needs: dict[str, set[str]] = {file: set(files) for file in files}
    assert dependency_order([*files, "base", "user"], {**needs, "0300": {*files, "base"}, "user": {"0001"}}) == [
        "base", *files, "user",
    ]  # fmt: skip


def test_documentation_stands_before_the_first_code_of_its_folder() -> None:
    code = ["lib/deep/base.py", "lib/use.py", "main.py"]
    docs = ["README.md", "lib/use.md", "lib/deep/README.md", "lib/deep/a.md", "docs/guide.md", "LICENSE"]
    assert with_docs(code, docs) == [
        "README.md", "LICENSE", "docs/guide.md", "lib/use.md", "lib/deep/README.md", "lib/deep/a.md", "lib/deep/base.py",
        "lib/use.py", "main.py",
    ]  # fmt: skip
    assert with_docs([], ["b.md", "README.md"]) == ["README.md", "b.md"]


@given(st.lists(st.sampled_from(NAMES), unique=True), st.sets(st.sampled_from([name.replace(".py", ".md") for name in NAMES])))
def test_no_file_is_lost_and_code_keeps_its_order(code: list[str], docs: set[str]) -> None:
    placed = with_docs(code, docs)
    assert sorted(placed) == sorted([*code, *docs])
    assert [path for path in placed if path.endswith(".py")] == code
    place = {path: number for number, path in enumerate(placed)}
    for doc in docs:
        assert all(place[doc] < place[file] for file in code if folder_of(file) == folder_of(doc))
