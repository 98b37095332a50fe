"""A repository as Markdown: nothing lost, dependencies first, sizes kept."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lianlu.core.errors import DataError
from lianlu.data.code.repository import concatenated, without_files
from lianlu.formats.documents import Document


def file(path: str, text: str, **more: object) -> Document:
    known = {"id": f"r/{path}", "path": path, "domain": "docs" if path.endswith(".md") else "code", **more}
    return Document(text=text, **known)  # type: ignore[arg-type]


FILES = [
    file("main.py", "import app.core\n", license="MIT", date="2024-05-01", meta={"weight": 2}),
    file("README.md", "Read *me*.\n"),
    file("app/core.py", "from app import base\n", license="Apache-2.0", date="2025-01-01"),
    file("app/base.py", "text = '''\n```python\n'''\n", license="MIT"),
]


def test_a_repository_becomes_one_document() -> None:
    (made,) = concatenated("me/app", FILES)
    assert made.text == (
        "# me/app\n\n"
        "## README.md\n\nRead *me*.\n\n"
        "## app/base.py\n\n````python\ntext = '''\n```python\n'''\n````\n\n"
        "## app/core.py\n\n```python\nfrom app import base\n```\n\n"
        "## main.py\n\n```python\nimport app.core\n```\n"
    )
    assert made.id == "me/app"
    assert (made.domain, made.lang, made.license, made.date) == ("code", "markdown", "MIT AND Apache-2.0", "2025-01-01")
    assert made.meta["parents"] == ["r/README.md", "r/app/base.py", "r/app/core.py", "r/main.py"]
    assert made.meta["files"][2:] == [
        {"path": "app/core.py", "license": "Apache-2.0"},
        {"path": "main.py", "license": "MIT", "date": "2024-05-01"},
    ]
    assert 1 < made.meta["weight"] < 2
    assert concatenated("me/app", FILES[::-1])[0].text == made.text


def test_documents_are_split_between_files_only() -> None:
    parts = concatenated("me/app", FILES, max_bytes=95)
    assert [part.id for part in parts] == ["me/app#1", "me/app#2", "me/app#3"]
    assert all(len(part.text.encode()) <= 95 for part in parts)
    assert [parent for part in parts for parent in part.meta["parents"]] == concatenated("me/app", FILES)[0].meta["parents"]
    assert len(concatenated("me/app", FILES, max_bytes=1)) == 4
    assert concatenated("me/app", []) == []


def test_a_path_that_occurs_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"me/app holds main\.py twice"):
        concatenated("me/app", [*FILES, file("main.py", "")])


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match=r"r/main\.py has weight 'much'"):
        concatenated("me/app", [file("main.py", "", meta={"weight": "much"})])


def test_what_is_no_source_code_is_not_fenced() -> None:
    files = [
        file("a.html", "An article.", domain="web"), file("b.html", "<p>An article.</p>", domain="code", lang="html"),
        file("c.ipynb", "# Cells\n", lang="jupyter"), file("d.pdf", "A paper.", domain="docs"), file("e.rst", "A *note*."),
        file("f", "x <- 1", lang="r"),
    ]  # fmt: skip
    (made,) = concatenated("r", files)
    fences = [token.info for token in MarkdownIt("commonmark").parse(made.text) if token.type == "fence"]
    assert fences == ["html", "rst", "r"]


TEXTS = st.text(alphabet="ab`~#\n >\t-é", max_size=40)


@given(st.dictionaries(st.sampled_from(["a.py", "b/c.js", "b/d.rs", "e.json", "f.rst"]), TEXTS, min_size=1), st.integers(1, 300))
def test_markdown_gives_every_file_back(texts: dict[str, str], max_bytes: int) -> None:
    parts = concatenated("repo", [file(path, text) for path, text in texts.items()], max_bytes)
    found = {}
    for part in parts:
        assert len(part.text.encode()) <= max_bytes or len(part.meta["parents"]) == 1
        tokens = MarkdownIt("commonmark").parse(part.text)
        headings = [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
        blocks = [token.content for token in tokens if token.type == "fence"]
        assert headings[0] == "repo"
        found.update(zip(headings[1:], blocks, strict=True))
    assert found == {path: text if text.endswith("\n") or not text else text + "\n" for path, text in texts.items()}
    assert [re.sub("^r/", "", parent) for part in parts for parent in part.meta["parents"]] == list(found)


def block(one: Document) -> str:
    (made,) = concatenated("repo", [one])
    return made.text.removeprefix("# repo\n\n")


PATHS = ["a.py", "b/c.js", "b/d.rs", "e.json", "f.md", "g.txt"]
LINES = st.lists(st.sampled_from([*(f"## {path}" for path in PATHS), "#", "# repo", "", "secret", " ```"]), max_size=8)


@given(st.dictionaries(st.sampled_from(PATHS), LINES, min_size=1), st.data())
def test_a_file_leaves_a_joined_document_with_its_part_alone_or_the_document_goes(
    texts: dict[str, list[str]], data: st.DataObject
) -> None:
    files = [file(path, "\n".join(lines)) for path, lines in texts.items()]
    (whole,) = concatenated("repo", files)
    paths = [origin["path"] for origin in whole.meta["files"]]
    places = [place for place in range(len(paths)) if data.draw(st.booleans())]
    left = without_files(whole, places)
    kept = [path for place, path in enumerate(paths) if place not in places]
    if left is None:
        told = "\n".join("\n".join(lines) for lines in texts.values())
        assert not kept or any(f"## {path}\n" in told for path in paths)
        return
    blocks = {one.path: block(one) for one in files}
    assert left.text == "# repo\n\n" + "\n".join(blocks[path] for path in kept)
    assert [origin["path"] for origin in left.meta["files"]] == kept
    assert left.meta["parents"] == [f"r/{path}" for path in kept]
    assert (left.id, left.license, left.meta["repo"]) == (whole.id, whole.license, "repo")


@pytest.mark.parametrize(
    "meta", [{}, {"files": ["a"], "parents": ["x"]}, {"files": [{"path": "a.py"}] * 2, "parents": ["x", "y"]}, {"files": 3}]
)
def test_what_was_not_joined_here_or_changed_since_goes_as_a_whole(meta: dict[str, object]) -> None:
    assert without_files(Document("x", "# r\n\n## b.py\n\nsecret\n", meta=meta), [0]) is None


def test_seeds_that_found_a_joined_document_stay_on_record() -> None:
    (whole,) = concatenated("repo", FILES)
    whole.meta["parents"].append("seed")
    left = without_files(whole, [0])
    assert left is not None
    assert left.meta["parents"] == ["r/app/base.py", "r/app/core.py", "r/main.py", "seed"]
    assert without_files(whole, [4]) is None
