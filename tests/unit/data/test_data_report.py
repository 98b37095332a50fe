"""The data report: its figures against counting by hand, and what hostile texts can do to it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lianlu.core.errors import DataError
from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.report import clusters as clusters_module
from lianlu.data.report import page, rejected, signals, tables
from lianlu.data.report.clusters import clusters, difference
from lianlu.data.report.excerpts import EXCERPT_CHARS, shown
from lianlu.data.rules.thresholds import Thresholds
from lianlu.data.scores import cost
from lianlu.data.scores.columns import decision_columns
from lianlu.data.scores.decide import Rules, is_broken
from lianlu.data.scores.scored import Chunk, chunks_in
from lianlu.data.tune import border
from lianlu.formats.documents import Document, write_jsonl

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\u202etxt.exe & <!-- "


def documents(story: Callable[..., str]) -> list[Document]:
    made = [Document(f"web{n}", story(n, 6 + n % 20), source="pages") for n in range(60)]
    made += [Document(f"docs{n}", story(900 + n), domain="docs", source="manuals") for n in range(20)]
    made += [Document(f"copy{n}", story(n, 6 + n % 20) + " One more thing was said.", source="mirror") for n in range(0, 60, 3)]
    made += [Document("again", story(3, 9).replace("\n", "\n\n"), source="mirror")]
    made += [Document(f"{HOSTILE}{n}", f"{HOSTILE}{n}\n{story(70 + n)}", source=HOSTILE) for n in range(3)]
    made += [Document("mail", f"Write to jane.doe@company.org now.\n{story(1)}", source="pages", domain=HOSTILE)]
    return [*made, Document("short <b>", f"{HOSTILE} jane.doe@company.org")]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, story: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_jsonl(folder / "all.jsonl", documents(story))
    out = Output(folder / "out")
    out.path.mkdir()
    clean.run(CleanConfig(source=str(folder / "all.jsonl"), workers=1), out)
    return out.path


@pytest.fixture(scope="module")
def rules() -> Rules:
    config = CleanConfig()
    return Rules(config.rules, Thresholds(config.thresholds), config.languages)


@pytest.fixture(scope="module")
def html(artifact: Path, rules: Rules) -> str:
    return page.render(f"name {HOSTILE}", artifact, artifact / "scored", rules)


class Tags(HTMLParser):
    """Which elements and attributes there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names = Counter[str]()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]


def test_hostile_texts_are_shown_and_do_nothing(html: str) -> None:
    tags = Tags(html)
    assert tags.names["script"] == 2
    assert tags.names["style"] == 1
    assert not {"img", "b", "link", "iframe"} & set(tags.names)
    assert not [name for _, name, _ in tags.attributes if name.startswith("on") or name in ("src", "style")]
    assert {value[0] for _, name, value in tags.attributes if name == "href" and value} == {"#"}
    assert "{{ 7*7 }}" in html
    assert "\u202e" not in html
    assert "jane.doe" not in html


def test_the_policy_allows_the_page_its_own_script_and_style_alone(html: str) -> None:
    policy = next(
        value
        for tag, name, value in Tags(html).attributes
        if tag == "meta" and name == "content" and value and "default-src" in value
    )
    found = re.findall(r"(script|style)-src ('sha256-[^']+')", policy)
    bodies = {
        "style": re.findall(r"<style>(.*?)</style>", html, re.S)[0],
        "script": re.findall(r"<script>(.*?)</script>", html, re.S)[-1],
    }
    assert policy.startswith("default-src 'none'")
    assert {name: page._hash(body) for name, body in bodies.items()} == dict(found)


def test_every_word_is_there_in_both_languages() -> None:
    words = page._words()
    assert set(words["en"]) == set(words["zh"])
    for key, text in words["en"].items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", words["zh"][key]))
    used = set(re.findall(r't\("(\w+)"', page._asset("report.html"))) | set(
        re.findall(r'word\("(\w+)"\)', page._asset("report.js"))
    )
    assert used <= set(words["en"])


def test_histograms_count_every_value_once_and_agree_with_the_rules(artifact: Path, rules: Rules) -> None:
    found = signals.spreads(artifact / "scored", rules)
    chunks = chunks_in(artifact / "scored")
    kinds = [kind for chunk in chunks for kind in chunk.kinds()]
    order = [(shown(kind["domain"], 40), kind["script"], kind["lang"]) for kind in found["kinds"]]
    assert sum(kind["documents"] for kind in found["kinds"]) + found["others"] == len(kinds)
    assert {rule["name"] for rule in found["rules"]} == {name for chunk in chunks for name in chunk.signals()}
    for rule in found["rules"]:
        values = np.concatenate([chunk.signals().get(rule["name"], np.full(len(chunk), np.nan)) for chunk in chunks])
        for number, kind in enumerate(order):
            own = values[[(shown(a, 40), b, c) == kind for a, b, c in kinds]]
            own = own[~np.isnan(own)]
            assert sum(rule["counts"][number]) == len(own)
            limit = rule["limits"][number]
            assert rule["broken"][number] == (0 if limit is None else int(is_broken(rule["name"], own, limit).sum()))


def test_samples_are_those_that_tune_finds_nearest(artifact: Path, rules: Rules) -> None:
    found = signals.spreads(artifact / "scored", rules)
    rule = next(rule for rule in found["rules"] if rule["name"] == "gopher_quality.min_words")
    number, kind = next((n, kind) for n, kind in enumerate(found["kinds"]) if (kind["domain"], kind["lang"]) == ("web", "en"))
    near = border(artifact / "scored", rules, rule["name"], ("web", "", "en"), 100)
    assert kind["script"] == ""
    for taken, places in ((True, near.taken), (False, near.left)):
        wanted = sorted({place.value for place in places}, key=lambda value: abs(value - near.threshold))[: found["per_side"]]
        assert [sample[2] for sample in rule["samples"] if sample[0] == number and sample[1] is taken] == wanted


def test_tables_add_up(artifact: Path) -> None:
    steps = tables.funnel(artifact)
    groups = tables.groups(artifact / "scored", artifact)
    for rows in groups.values():
        assert sum(row["documents"] for row in rows) == steps[2]["documents_out"]
        assert sum(row["kept_documents"] for row in rows) == steps[-1]["documents_out"]
    sources = {row["name"]: row for row in groups["source"]}
    assert sources["mirror"]["documents"] == 21
    assert sources["mirror"]["kept_documents"] < 21


def test_many_sources_are_one_row_in_the_end(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tables.groups(artifact / "scored", artifact)["source"]
    monkeypatch.setattr(tables, "MAX_ROWS", 2)
    short = tables.groups(artifact / "scored", artifact)["source"]
    assert len(short) == 3
    assert short[2]["others"] == len(whole) - 2
    assert sum(row["bytes"] for row in short) == sum(row["bytes"] for row in whole)


def test_clusters_are_those_of_the_decisions(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = clusters(artifact / "scored", artifact)
    sizes = Counter[str]()
    for number in range(len(chunks_in(artifact / "scored"))):
        sizes.update(other for other in decision_columns(artifact, number, "repeats")[0] if other)
    assert found["duplicates"] == sizes.total() >= 20
    assert found["clusters"] == len(sizes)
    assert {cluster["id"]: cluster["size"] for cluster in found["shown"]} == {name: count + 1 for name, count in sizes.items()}
    assert sum(count for _, count in found["sizes"]) == len(sizes)
    member = next(member for cluster in found["shown"] if cluster["id"].startswith("copy") for member in cluster["members"])
    assert member["similarity"] >= 0.7
    assert ("kept", "One more thing was said.") in member["difference"]
    monkeypatch.setattr(clusters_module, "MAX_CLUSTERS", 2)
    assert len(clusters(artifact / "scored", artifact)["shown"]) == 2


def test_a_difference_shows_what_each_text_alone_has() -> None:
    assert difference("a b  c d", "a b c d") == []
    assert difference("a b c d", "a b x d") == [("same", "a b"), ("kept", "c"), ("other", "x"), ("same", "d")]
    assert difference("a b", "a b c") == [("same", "a b"), ("other", "c")]
    assert difference("今天天气好", "今天天气坏") == [("same", "今天天气"), ("kept", "好"), ("other", "坏")]
    assert difference("", "") == []
    far = difference("same " * 500 + "x", "same " * 500 + "y " + "z" * 9000)
    assert far[-2:] == [("kept", "x"), ("other", "y")]
    assert sum(len(text) for _, text in far) < 300
    assert difference("", "z" * 9000)[0][0] == "other"


def test_rejections_are_a_sample_of_every_rule_whatever_their_number(tmp_path: Path) -> None:
    names = ["a.x"] * 4000 + ["b.x"] * 3000 + ["c.x"] * 3
    lines = [
        json.dumps({"id": f"{n}", "rule": rule, "value": n, "threshold": 1, "excerpt": "x" * 9999})
        for n, rule in enumerate(names)
    ]
    (tmp_path / "rejected.jsonl").write_text("\n".join(lines))
    found = rejected.rejected(tmp_path)
    assert found["total"] == 7003
    assert dict(found["rules"]) == {"a.x": 4000, "b.x": 3000, "c.x": 3}
    assert Counter(row["rule"] for row in found["shown"]) == {"a.x": 150, "b.x": 150, "c.x": 3}
    assert [int(row["id"]) for row in found["shown"]] == sorted(int(row["id"]) for row in found["shown"])
    assert int(found["shown"][0]["id"]) > 0  # drawn, not the first ones
    assert max(len(row["excerpt"]) for row in found["shown"]) <= 201
    many = [json.dumps({"id": "", "rule": f"r{n % 60}.x", "value": n, "threshold": 1, "excerpt": ""}) for n in range(9000)]
    (tmp_path / "rejected.jsonl").write_text("\n".join(many))
    assert set(Counter(row["rule"] for row in rejected.rejected(tmp_path)["shown"]).values()) == {25}


def test_what_is_not_there_or_damaged_is_named(artifact: Path, rules: Rules, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"funnel\.json"):
        page.render("x", tmp_path, artifact / "scored", rules)
    (tmp_path / "rejected.jsonl").write_text("{broken")
    with pytest.raises(DataError, match=r"rejected\.jsonl"):
        rejected.rejected(tmp_path)
    with pytest.raises(DataError, match=r"00000\.parquet"):
        clusters(artifact / "scored", tmp_path)


def test_the_page_is_the_same_every_time_and_excerpts_are_bounded(artifact: Path, rules: Rules, html: str) -> None:
    assert page.render(f"name {HOSTILE}", artifact, artifact / "scored", rules) == html
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[0])
    texts = [sample[4] for rule in data["rules"] for sample in rule["samples"]]
    assert len(texts) <= signals.MAX_SAMPLES
    assert max(map(len, texts)) <= EXCERPT_CHARS + 1
    assert any("</script><script>alert(1)" in text for text in texts)


def test_bars_cover_values_and_thresholds() -> None:
    for values, limits in (([1.0, 2.0, 3.0], [0.5]), ([0.0] * 9, [0.2]), ([5.0, 9e5], [50.0]), ([], []), ([-3.0, 4.0], [])):
        is_log, edges = signals.edges_of(np.array(values), limits)
        assert np.all(np.diff(edges) > 0)
        assert is_log == (values == [5.0, 9e5])
        assert all(edges[0] <= limit <= edges[-1] for limit in limits if limit == 0.5 or is_log)


def test_costs_are_added_up_by_operator(tmp_path: Path) -> None:
    cost.taken()
    with cost.timed("outer", 1000), cost.timed("inner", 10):
        pass
    cost.add("outer", 2.0, 3_000_000)
    cost.write_chunk(tmp_path / "logs", 0)
    cost.add("near_dedup", 0.5, 1_000_000, 7)
    total = cost.write_total(tmp_path / "logs")
    assert {name: (own["bytes"], own["documents"]) for name, own in total.items()} == {
        "outer": (3_001_000, 2),
        "inner": (10, 1),
        "near_dedup": (1_000_000, 7),
    }
    rows = tables.cost(tmp_path)
    assert [row["name"] for row in rows] == ["outer", "near_dedup", "inner"]
    assert rows[1]["rate"] == pytest.approx(2.0)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert cost.taken() == {}
    assert tables.cost(tmp_path / "nothing") == []


def test_an_empty_chunk_is_no_trouble(artifact: Path, rules: Rules, tmp_path: Path) -> None:
    values: dict[str, Any] = signals.spreads(tmp_path, rules)
    assert values["rules"] == []
    assert values["kinds"] == []
    assert len(Chunk(artifact / "scored", 0)) > 0
