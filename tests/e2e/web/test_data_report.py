"""The data report in headless Chromium, opened as a file: choices, search, languages, keys, and no trouble from hostile texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.report.page import write_data_report
from lianlu.data.rules.thresholds import Thresholds
from lianlu.data.scores.decide import Rules
from lianlu.formats.documents import Document, write_jsonl

pytestmark = pytest.mark.e2e

HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
UNNAMED = """[...document.querySelectorAll("button, input, select")]
    .filter((node) => !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).map((node) => node.outerHTML)"""


def documents(story: Callable[..., str]) -> list[Document]:
    made = [Document(f"{HOSTILE}{n}", f"{HOSTILE} said number {n}.\n{story(n, 3 + n % 9)}", source=HOSTILE) for n in range(30)]
    return [*made, Document("copy", made[8].text + "\nThat is all there is to it.")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, story: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_jsonl(folder / "all.jsonl", documents(story))
    out = Output(folder / "out")
    out.path.mkdir()
    config = CleanConfig(source=str(folder / "all.jsonl"), workers=1)
    clean.run(config, out)
    rules = Rules(config.rules, Thresholds(config.thresholds), config.languages)
    write_data_report(HOSTILE, out.path, out.path / "scored", rules, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def visit(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = browser.new_context(locale=getattr(request, "param", "en-US"), viewport={"width": 1200, "height": 800})
    context.set_default_timeout(8000)
    page = context.new_page()
    troubles: list[str] = []
    asked: list[str] = []
    page.on("console", lambda said: troubles.append(said.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda wanted: asked.append(wanted.url))
    page.goto(report.as_uri())
    yield page
    assert page.evaluate("window.hit") is None
    context.close()
    assert troubles == []
    assert asked == [report.as_uri()]


def test_a_rule_and_a_kind_are_chosen(visit: Any, story: Callable[..., str]) -> None:
    visit.select_option("#rule", label="gopher_quality.min_words")
    assert visit.locator("#histogram rect.bar").count() == 40
    assert visit.locator("#histogram line.mark").count() == 1
    assert "Choose a kind of text" in visit.locator("#samples").inner_text()
    visit.select_option("#kind", index=1)
    summary = visit.locator("#summary").inner_text()
    short = sum(len(document.text.split()) < 50 for document in documents(story))
    assert 0 < short < 31
    assert f"31 documents; threshold 50; takes {short} ({100 * short / 31:.2f} %)" in summary
    assert visit.locator("#samples section").count() == 2
    assert HOSTILE in visit.locator("#samples pre").first.inner_text()


def test_rejections_are_searched(visit: Any) -> None:
    rows = visit.locator("#rejections tbody tr:visible")
    whole = rows.count()
    visit.locator("#search").fill("NUMBER 9.")
    assert rows.count() == 1
    assert "1 match" in visit.locator("#matches").inner_text()
    visit.locator("#search").fill("")
    visit.select_option("#rejected-rule", "near_dedup.max_jaccard")
    assert 0 < rows.count() < whole
    assert visit.locator("details.cluster").count() == 1


@pytest.mark.parametrize("visit", ["en-US", "zh-CN"], indirect=True)
def test_languages_and_themes_are_turned(visit: Any) -> None:
    begins = visit.evaluate("document.documentElement.lang")
    headings = {"en": "Rules and thresholds", "zh": "规则与阈值"}
    for language in (begins, "zh" if begins == "en" else "en"):
        assert visit.evaluate("document.documentElement.lang") == language
        assert visit.locator("h2#signals").inner_text() == headings[language]
        assert ("documents" in visit.locator("#summary").inner_text()) == (language == "en")
        visit.locator("#language").click()
    colour = "getComputedStyle(document.body).backgroundColor"
    before = visit.evaluate(colour)
    visit.locator("#theme").click()
    assert visit.evaluate(colour) != before
    visit.locator("#theme").click()
    assert visit.evaluate(colour) == before


def test_everything_is_reached_by_keys_and_has_a_name(visit: Any) -> None:
    assert visit.evaluate(UNNAMED) == []
    visit.keyboard.press("Tab")
    assert visit.evaluate("document.activeElement.className") == "skip"
    visit.keyboard.press("Tab")
    assert visit.evaluate("document.activeElement.id") == "language"
    visit.locator("details.cluster summary").focus()
    visit.keyboard.press("Enter")
    assert visit.locator("details.cluster ins, details.cluster del").first.is_visible()
    assert visit.evaluate("document.documentElement.scrollWidth <= innerWidth")
    visit.set_viewport_size({"width": 380, "height": 700})
    assert visit.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
