"""The files of the chat page as they are sent."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lianlu.serve import page
from lianlu.serve.service import Service


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(Starlette(routes=page.routes(Service())), raise_server_exceptions=False) as made:
        yield made


def test_the_page_and_everything_it_names_is_there(client: TestClient) -> None:
    seen, todo = set(), ["/"]
    while todo:
        path = todo.pop()
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == page.POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        seen.add(path)
        todo += [found for found in re.findall(r'"(/web/[\w.]+)"', answer.text) if found not in seen]
    assert {f"/web/{name}" for name in page.read_files()} - seen == {"/web/index.html"}
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
    assert client.get("/web/app.js").headers["content-type"].startswith("text/javascript")


def test_nothing_is_loaded_from_elsewhere_or_written_inline() -> None:
    for name, file in page.read_files().items():
        text = file.body.decode()
        assert not re.search(r"""(?:src|href|from|url|import)\s*[=(]?\s*["'(]?(?:https?:)?//""", text), name
        assert not re.search(r"\.(?:inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), name
    html = page.read_files()["index.html"].body.decode()
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*src=)", html)
    for directive in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"):
        assert directive in page.POLICY
    assert "unsafe" not in page.POLICY


def test_a_browser_that_has_a_file_is_told_so(client: TestClient) -> None:
    tag = client.get("/web/app.js").headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/web/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/web/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpage.py", "%2e%2e%2fpage.py", "page.py", "", "x" * 500])
def test_other_files_are_not_sent(client: TestClient, name: str) -> None:
    answer = client.get(f"/web/{name}")
    assert answer.status_code >= 400
    assert "def routes" not in answer.text


def test_both_languages_say_the_same_things() -> None:
    text = page.read_files()["texts.js"].body.decode()
    english, chinese = (re.findall(r"(?:^\s+|, )(\w+): [\"(`]?", part, re.M) for part in re.split(r"\n  zh: \{", text))
    names = [name for name in english if name != "en"]
    assert names == [name for name in chinese if name in names]
    assert len(names) > 50
    used = {
        name
        for file in page.read_files().values()
        for name in re.findall(r'data-(?:text|label|hint|title)="(\w+)"', file.body.decode())
    }
    assert used <= set(names)
