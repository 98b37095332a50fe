"""Cleaned files of repositories joined to documents: order, several repositories, nothing lost, and the way back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lianlu.core.config import validate
from lianlu.core.store import Output, Store
from lianlu.data import clean, repositories
from lianlu.data.clean import CleanConfig
from lianlu.data.code.graph import import_graph
from lianlu.data.code.source_file import language, path_of
from lianlu.data.forget import forget
from lianlu.data.holders import find_holders
from lianlu.data.repositories import RepositoriesConfig
from lianlu.formats.documents import Document, read_documents, write_documents
from lianlu.recipe.recipe import build_recipe
from lianlu.recipe.run import run_recipe

MIT = "SPDX-License-Identifier: MIT\n"
README = """# Harbour

The harbour keeps the ships that come in from the sea, and it tells each of them where to lie. It has a crane for the cargo.
You can read about the tides in the second part of this text, and about the people who work here in the third one of them."""


def python(topic: str, imports: str = "") -> str:
    functions = (
        f'def {topic}_{name}(first_{topic}, second_{topic}):\n    """The {name} of two values, as {topic} has it."""\n'
        f"    combined_{name} = first_{topic} + second_{topic}\n    return combined_{name} * len(first_{topic})\n\n\n"
        for name in (f"{topic}{letter}" for letter in "abcdef")
    )
    return f'"""All about {topic}."""\n\n{imports}\n\n' + "".join(functions)


def braces(topic: str, head: str, word: str) -> str:
    functions = (
        f"// The {name} of two values, as {topic} has it.\n{word} {topic}_{name}(first_{topic}, second_{topic}) {{\n"
        f"  return first_{topic} + second_{topic} * {topic}_count;\n}}\n\n"
        for name in (f"{topic}{letter}" for letter in "abcdef")
    )
    return f"{head}\n\n" + "".join(functions)


HARBOUR = {
    "LICENSE": MIT,
    "README.md": README,
    "harbour/__init__.py": python("all", "from .ships import ships_shipsa\nfrom .tides import *"),
    "harbour/cranes.py": python("cranes", "from harbour.ships import ships_shipsa"),
    "harbour/ships.py": python("ships", "from harbour import tides"),
    "harbour/tides.py": python("tides", "def late():\n    from harbour.cranes import cranes_cranesa"),
    "harbour/knots/bend.py": python("bend", "from .hitch import hitch_hitcha"),
    "harbour/knots/hitch.py": python("hitch", "from .bend import bend_benda"),
    "native/crane.c": braces("lift", '#include "rope.h"', "int"),
    "native/rope.h": braces("rope", "#pragma once", "int"),
    "web/main.ts": braces("view", 'import { dock_docka } from "./dock"', "function"),
    "web/dock.ts": braces("dock", "", "export function"),
}
FLEET = {
    "LICENSE": MIT,
    "main.py": python("fleet", "import util"),
    "util.py": python("util"),
}


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repositories")
    write(root / "code" / "first" / "app", HARBOUR)
    write(root / "code" / "second" / "app", FLEET)
    write(root / "code" / "loose", {"alone.py": python("alone")})
    (root / "out").mkdir()
    clean.run(validate(CleanConfig, {"source": str(root / "code"), "workers": 1}), Output(root / "out"))
    return root / "out"


def joined(data: Path | list[Path], target: Path, **more: object) -> Output:
    target.mkdir()
    out = Output(target)
    given = str(data) if isinstance(data, Path) else [str(path) for path in data]
    repositories.run(validate(RepositoriesConfig, {"data": given, "workers": 1, **more}), out)
    return out


def by_id(out: Output) -> dict[str, Document]:
    return {document.id: document for document in read_documents(out.path)}


def headings(document: Document) -> list[str]:
    found: list[str] = re.findall(r"(?m)^## (.*)$", document.text)
    return found


def test_repositories_of_one_name_are_joined_each_by_itself(cleaned: Path, tmp_path: Path) -> None:
    out = joined(cleaned, tmp_path / "out")
    found = by_id(out)
    assert list(found) == ["first/app", "second/app", "loose/alone.py"]
    assert headings(found["first/app"]) == [
        "README.md", "harbour/tides.py", "harbour/ships.py", "harbour/cranes.py", "harbour/__init__.py",
        "harbour/knots/bend.py", "harbour/knots/hitch.py", "native/rope.h", "native/crane.c", "web/dock.ts", "web/main.ts",
    ]  # fmt: skip
    assert headings(found["second/app"]) == ["util.py", "main.py"]
    whole = found["first/app"]
    assert (whole.license, whole.lang, whole.domain) == ("MIT", "markdown", "code")
    assert whole.meta["parents"] == [f"first/app/{path}" for path in headings(whole)]
    assert whole.meta["files"] == [{"path": path} for path in headings(whole)]
    assert 1 < whole.meta["weight"] <= 2
    read = {document.id: document for document in read_documents(cleaned)}
    assert all(read[parent].text.strip("\n") in whole.text for parent in whole.meta["parents"])
    assert found["loose/alone.py"] == read["loose/alone.py"]
    assert out.figures == {"documents": 3, "repositories": 2, "files_joined": 13, "documents_left_alone": 1}


def test_batches_and_processes_change_nothing(cleaned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (joined(cleaned, tmp_path / "one").path / "part-00000.parquet").read_bytes()
    monkeypatch.setattr(repositories, "BATCH_BYTES", 1)
    monkeypatch.setattr(repositories, "SERIAL_BYTES", 0)
    assert (joined(cleaned, tmp_path / "two", workers=2).path / "part-00000.parquet").read_bytes() == wanted


def test_files_of_a_repository_may_lie_in_several_artifacts(cleaned: Path, tmp_path: Path) -> None:
    documents = list(read_documents(cleaned))
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        write_documents(tmp_path / name, documents[number::2])
    found = by_id(joined([tmp_path / "b", tmp_path / "a"], tmp_path / "out"))
    assert found == by_id(joined(cleaned, tmp_path / "whole"))
    twice = joined([cleaned, tmp_path / "a"], tmp_path / "twice")
    assert twice.figures["documents_left_alone"] == 1 + len(documents[::2])
    assert {name: found[name].text for name in found} == {name: by_id(twice)[name].text for name in found}


def test_a_limit_cuts_between_files(cleaned: Path, tmp_path: Path) -> None:
    parts = [
        document for document in by_id(joined(cleaned, tmp_path / "out", max_bytes=4000)).values() if "files" in document.meta
    ]
    assert len(parts) > 4
    assert all(len(part.text.encode()) <= 4000 or len(part.meta["files"]) == 1 for part in parts)


def test_nothing_is_joined_where_no_repository_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Document("a", "text of a", source="s"), Document("b", "text of b", source="s", meta={"repo": 3})]
    (tmp_path / "in").mkdir()
    write_documents(tmp_path / "in", rows)
    assert list(read_documents(joined(tmp_path / "in", tmp_path / "out").path)) == rows
    assert "by=source" in "".join(capsys.readouterr())
    assert list(by_id(joined(tmp_path / "in", tmp_path / "by", by="source"))) == ["s"]


def test_a_file_is_found_and_forgotten_inside_a_joined_document(tmp_path: Path) -> None:
    rows = [
        {"id": f"r/{path}", "text": text, "path": path, "url": f"https://example.org/{path}", "repo": "fleet", "license": "MIT"}
        for path, text in FLEET.items()
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = Store(tmp_path / "store")
    first = {"stage": "clean", "source": str(tmp_path / "rows.jsonl"), "domain": "code", "rules": [], "workers": 1}
    steps = {"clean": first, "join": {"stage": "repositories", "data": "@clean", "max_bytes": 1500}}
    results = run_recipe(build_recipe("test", {"steps": steps}), store)
    join = next(result.artifact for result in results if result.step.name == "join")
    before = {document.id: document for document in read_documents(join.path)}
    (holding,) = (document for document in before.values() if "r/util.py" in document.meta["parents"])
    assert len(before) > 1
    assert {"path": "util.py"} in holding.meta["files"] or {"path": "util.py", "url": rows[2]["url"]} in holding.meta["files"]
    for name in ("r/util.py", "https://example.org/util.py"):
        held = {holder.artifact.manifest.step: holder.documents for holder in find_holders(store, name).found}
        assert held == {"clean": {"part-00000.parquet": [2]}, "join": {"part-00000.parquet": [list(before).index(holding.id)]}}
    forget(store, "r/util.py", apply=True)
    after = {document.id: document for document in read_documents(store.get("@join").path)}
    assert set(after) == set(before)
    assert headings(after[holding.id]) == [path for path in headings(holding) if path != "util.py"]
    assert all(document == before[name] for name, document in after.items() if name != holding.id)
    assert find_holders(store, "r/util.py").found == []


def test_what_is_on_the_list_is_not_joined(tmp_path: Path) -> None:
    rows = [
        Document(f"r/{path}", text, url=f"https://example.org/{path}", path=path, domain="code", meta={"repo": name})
        for name in ("fleet", "port")
        for path, text in ((f"{name}/{own}", text) for own, text in FLEET.items())
    ]
    store = Store(tmp_path / "store")
    for name in ("r/fleet/main.py", "https://example.org/fleet/util.py", "port", "lone"):
        forget(store, name, apply=True)
    (tmp_path / "in").mkdir()
    write_documents(tmp_path / "in", [*rows, Document("lone", "a text"), Document("left", "another")])
    steps = {"join": {"stage": "repositories", "data": str(tmp_path / "in")}}
    [result] = run_recipe(build_recipe("test", {"steps": steps}), store)
    found = {document.id: document for document in read_documents(result.artifact.path)}
    assert {name: document.meta.get("parents") for name, document in found.items()} == {
        "fleet": ["r/fleet/LICENSE"], "left": None,
    }  # fmt: skip
    assert result.artifact.manifest.figures["documents_forgotten"] == 3


def test_ids_are_unique_whatever_they_were_before(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files = [
        Document(f"{root}/app/{path}", "x = 1", path=path, domain="code", meta={"repo": name})
        for root, name in (("a", "app"), ("b", "app"), ("c", "a/app"), ("d", "a/app#2"))
        for path in ("m.py", "n.py", "m.py~2")
    ]
    others = [Document(name, "text") for name in ("b/app", "b/app", "b/app~2", "a/app#1", "a/app~2")]
    write_documents(tmp_path / "in", [*files, *others])
    for more in ({}, {"max_bytes": 30}):
        out = joined(tmp_path / "in", tmp_path / f"out-{len(more)}", **more)
        names = [document.id for document in read_documents(out.path)]
        assert len(set(names)) == len(names)
        assert set(names) >= {document.id for document in others}
        assert out.figures["repositories"] == 4


def test_a_real_repository_keeps_its_files_and_their_order(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files = list(read_documents(shared_data / "corpora" / "code_thealgorithms.jsonl.gz"))
    for file in files:
        file.path, file.domain = "code_thealgorithms.jsonl.gz", "code"  # as the clean stage gives records without a path
    write_documents(tmp_path / "in", files)
    out = joined(tmp_path / "in", tmp_path / "out", by="source", max_bytes=200_000)
    made = list(read_documents(out.path))
    order = [origin["path"] for document in made for origin in document.meta["files"]]
    assert sorted(order) == sorted(path_of(file) for file in files)
    graph = import_graph({path_of(file): file.text for file in files}, {path_of(file): language(file) for file in files})
    place = {path: number for number, path in enumerate(order)}
    edges = [(path, other) for path in graph.needs for other in graph.needs[path] | graph.late[path]]
    assert len(edges) > 50
    assert all(place[other] < place[path] for path, other in edges)
