"""The best fraction of each domain: what it comes to, whom it takes, how it is explained, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianlu.core import console
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.explain import explain
from lianlu.data.filters import linear_filter
from lianlu.data.filters.given import check_given
from lianlu.data.filters.linear_filter import LinearFilter
from lianlu.data.filters.ngrams import NgramSettings
from lianlu.data.report import signals
from lianlu.data.rules.edits import Edit
from lianlu.data.rules.thresholds import Thresholds, Verdict, with_shipped
from lianlu.data.rules.top_fraction import Cut, threshold, value_of
from lianlu.data.scores.corpus import Corpus
from lianlu.data.scores.cuts import FILE, check_earlier, read_cuts, with_cuts
from lianlu.data.scores.decide import Column, Kind, Rules, decide
from lianlu.data.scores.decisions import Decision, write_decisions
from lianlu.data.scores.score import Scored
from lianlu.data.scores.scored import _write_arrays, _write_signals, write_parquet
from lianlu.data.train_filter import Training, trained
from lianlu.data.tune import border, fraction_at
from lianlu.formats.documents import Document, read_documents

WORDS = "gopher_quality.min_words"
FAMILIES = ("language", "gopher_quality", "filters", "perplexity")
Row = tuple[Kind, dict[str, float]]
SCORE = st.integers(0, 9).map(lambda value: value / 8)
ROWS = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(["web", "docs"]), st.just(""), st.sampled_from(["en", "zh"])),
        st.fixed_dictionaries(
            {
                WORDS: st.sampled_from([10.0, 100.0]),
                "filters.min_quality": st.one_of(SCORE, st.just(float("nan"))),
                "filters.max_advertisement": SCORE,
            }
        ),
    ),
    min_size=1,
    max_size=25,
)


def rules_of(changes: dict[str, Any], families: tuple[str, ...] = FAMILIES) -> Rules:
    off = {"gopher_quality": {"docs": {"min_words": 50}}}
    return Rules(families, Thresholds(with_shipped({**off, **changes})))


def write_corpus(folder: Path, rows: Sequence[Row], per_chunk: int) -> Corpus:
    """Scored documents without texts to speak of, `d0`, `d1`, ... in chunks of this size."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(rows), per_chunk)):
        own = [scored_row(start + at, *row) for at, row in enumerate(rows[start : start + per_chunk])]
        base = folder / f"{number:05d}"
        write_parquet(base.with_name(f"{base.name}.documents.parquet"), [row.document for row in own])
        _write_signals(base.with_name(f"{base.name}.signals.parquet"), own)
        _write_arrays(base, own)
    return Corpus.of(folder)


@dataclass
class InMemory:
    """A chunk, and a corpus of one size of chunks, that never were on a disk."""

    rows: Sequence[Row]
    per_chunk: int = 1 << 30

    @property
    def chunks(self) -> list[InMemory]:
        return [InMemory(self.rows[start : start + self.per_chunk]) for start in range(0, len(self.rows), self.per_chunk)]

    def kinds(self) -> list[Kind]:
        return [kind for kind, _ in self.rows]

    def signals(self) -> dict[str, Column]:
        names = dict.fromkeys(name for _, own in self.rows for name in own)
        return {name: np.array([own.get(name, np.nan) for _, own in self.rows]) for name in names}


def scored_row(number: int, kind: Kind, values: dict[str, float]) -> Scored:
    document = Document(f"d{number}", f"text {number}", domain=kind[0], lang=kind[2])
    empty = np.empty(0, np.uint64)
    return Scored(document, kind[1], values, list[Edit](), 1, number.to_bytes(16, "big"), empty, empty)


def verdicts(corpus: Corpus | InMemory, rules: Rules) -> list[Verdict | None]:
    return [verdict for chunk in corpus.chunks for verdict in decide(chunk.signals(), chunk.kinds(), rules)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.floats(0.01, 1), st.booleans())
def test_the_threshold_is_the_last_score_that_is_kept(values: list[int], fraction: float, is_top: bool) -> None:
    limit = threshold([np.array(values[:3], float), np.array(values[3:], float)], fraction, is_top)
    best = sorted(values, reverse=is_top)[: max(round(fraction * len(values)), 1)]
    assert limit == best[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuts")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.sampled_from([0.1, 0.3, 0.5, 1]), st.integers(3, 50))
def test_each_domain_keeps_its_fraction_of_what_is_left_for_the_rule(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Row], fraction: float, per_chunk: int
) -> None:
    """By hand: first what the heuristics leave, then fractions of each domain one after another, ties kept."""
    monkeypatch.setattr(console, "warn", lambda text: None)
    corpus = InMemory(rows, per_chunk)
    changes = {"filters": {"top_quality": fraction, "bottom_advertisement": 0.5, "zh": {"top_quality": False}}}
    rules = with_cuts(rules_of(changes), corpus, folder)  # type: ignore[arg-type]
    expected: dict[int, str] = {at: WORDS for at, (_, own) in enumerate(rows) if own[WORDS] < 50}
    expected |= {  # Chinese has no fraction, and so the shipped bound
        at: "filters.min_quality"
        for at, (kind, own) in enumerate(rows)
        if at not in expected and kind[2] == "zh" and own["filters.min_quality"] < 0.5
    }
    # rules of a family are asked by name, and bottom_advertisement comes before top_quality
    for rule, share, is_top in (("filters.bottom_advertisement", 0.5, False), ("filters.top_quality", fraction, True)):
        for domain in ("web", "docs"):
            own = [
                (values[value_of(rule)], at)
                for at, (kind, values) in enumerate(rows)
                if at not in expected and kind[0] == domain and not (is_top and kind[2] == "zh")
            ]
            own = [(value if is_top else -value, at) for value, at in own if not np.isnan(value)]
            if own:
                last = sorted(own, reverse=True)[max(round(share * len(own)), 1) - 1][0]
                expected |= {at: rule for value, at in own if value < last}
    found = {at: verdict.rule for at, verdict in enumerate(verdicts(corpus, rules)) if verdict}
    assert found == expected
    assert read_cuts(folder) == rules.cuts


def web(quality: float, lang: str = "en", domain: str = "web", **more: float) -> Row:
    return (domain, "", lang), {"filters.min_quality": quality, **more}


def test_what_a_fraction_came_to_does_not_depend_on_chunks_or_on_the_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [web(float(value), domain="web" if at % 3 else "docs") for at, value in enumerate(rng.random(120))]
    rules = rules_of({"filters": {"top_quality": 0.1, "docs": {"top_quality": 0.25}}})
    made = [
        with_cuts(rules, write_corpus(tmp_path / name, own, size), tmp_path / name).cuts
        for name, own, size in (("a", rows, 300), ("b", rows, 27), ("c", rows[::-1], 31))
    ]
    assert made[0] == made[1] == made[2]
    docs, web_ = made[0]
    assert (docs.documents, docs.kept, web_.documents, web_.kept) == (40, 10, 80, 8)
    assert web_.threshold == sorted(own["filters.min_quality"] for kind, own in rows if kind[0] == "web")[-8]
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_a_language_with_a_fraction_of_its_own_is_apart_from_its_domain(tmp_path: Path) -> None:
    rows = [web(at / 100) for at in range(100)] + [web(at / 1000, "zh") for at in range(100)]
    corpus = write_corpus(tmp_path / "s", rows, 64)
    together = with_cuts(rules_of({"filters": {"web": {"top_quality": 0.5}}}), corpus, tmp_path)
    assert [(cut.part, cut.documents, cut.told) for cut in together.cuts] == [("", 200, "top 50 % of web")]
    apart = with_cuts(rules_of({"filters": {"web": {"top_quality": 0.5}, "zh": {"top_quality": 0.2}}}), corpus, tmp_path)
    assert [(cut.told, cut.threshold, cut.kept) for cut in apart.cuts] == [
        ("top 50 % of web", 0.5, 50),
        ("top 20 % of zh in web", 0.08, 20),
    ]


def test_a_fraction_takes_the_place_of_the_bound_on_the_same_score(tmp_path: Path) -> None:
    rows = [web(at / 1000) for at in range(100)]
    corpus = write_corpus(tmp_path / "s", rows, 64)
    rules = with_cuts(rules_of({"filters": {"web": {"top_quality": 0.3}}}), corpus, tmp_path)
    assert sum(verdict is None for verdict in verdicts(corpus, rules)) == 30  # all are below the shipped min_quality
    asked = dict(rules.bounds(("web", "", "en"), ["filters.min_quality"]))
    assert asked == {"filters.min_quality": False, "filters.top_quality": 0.07}
    assert dict(rules.bounds(("docs", "", "en"), ["filters.min_quality"])) == {"filters.min_quality": 0.5}


def test_perplexity_keeps_the_lowest_and_still_drops_repetition(tmp_path: Path) -> None:
    rows: list[Row] = [
        (("web", "", "en"), {"perplexity.min_bits_per_byte": at / 10, "perplexity.max_bits_per_byte": at / 10})
        for at in range(20)
    ]
    corpus = write_corpus(tmp_path / "s", rows, 64)
    rules = with_cuts(rules_of({"perplexity": {"bottom_bits_per_byte": 0.5, "min_bits_per_byte": 0.4}}), corpus, tmp_path)
    kept = [at for at, verdict in enumerate(verdicts(corpus, rules)) if verdict is None]
    assert kept == list(range(4, 12))  # the lower half of the 16 that are left


def test_many_equal_scores_are_kept_together_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [web(1.0)] * 60 + [web(0.5)] * 40
    corpus = write_corpus(tmp_path / "s", rows, 64)
    rules = with_cuts(rules_of({"filters": {"top_quality": 0.3, "wbe": {"top_quality": 0.1}}}), corpus, tmp_path)
    assert [verdict is None for verdict in verdicts(corpus, rules)] == [True] * 60 + [False] * 40
    said = " ".join(capsys.readouterr().err.split())
    assert "60 of 100 documents are kept, since many score 1 alike" in said
    assert "thresholds.filters.wbe.top_quality is not used" in said


def test_explain_tune_and_report_say_what_the_threshold_came_from(tmp_path: Path) -> None:
    rows = [web(at / 100) for at in range(100)] + [web(at / 50, domain="docs") for at in range(50)]
    corpus = write_corpus(tmp_path / "scored", rows, 200)
    rules = with_cuts(rules_of({"filters": {"top_quality": 0.3}}), corpus, tmp_path)
    found = verdicts(corpus, rules)
    assert found[69] == Verdict("filters.top_quality", 0.69, 0.7)
    write_decisions(tmp_path, 0, [Decision(f"d{at}", verdict) for at, verdict in enumerate(found)])
    (one,) = explain(tmp_path, corpus.scored, "d69", replace(rules, cuts=read_cuts(tmp_path)))
    told = {rule.rule: (rule.value, rule.threshold, rule.broken, rule.note) for rule in one.rules}
    assert told["filters.top_quality"] == (0.69, 0.7, True, "top 30 % of web")
    assert told["filters.min_quality"] == (0.69, False, False, "")
    edge = border(corpus.scored, rules, "filters.top_quality", ("web", "", ""), 3)
    assert [place.value for place in (*edge.taken, *edge.left)] == [0.69, 0.68, 0.67, 0.7, 0.71, 0.72]
    assert edge.setting == "thresholds.filters.web.top_quality"
    assert edge.cut is not None
    assert fraction_at(corpus.scored, rules, edge.cut, 0.6) == 0.4
    assert fraction_at(corpus.scored, rules, edge.cut, 2) == 0.01
    spread = next(rule for rule in signals.spreads(corpus.scored, rules)["rules"] if rule["name"] == "filters.top_quality")
    assert spread["cuts"] == ["top 30 % of web", "top 30 % of docs", None]
    assert spread["limits"] == [0.7, 0.7, None]
    assert spread["broken"][0] == 70
    assert {(sample[1], sample[3]) for sample in spread["samples"] if sample[0] == 0} >= {(True, "d69"), (False, "d70")}


def test_tune_says_which_fraction_decides(tmp_path: Path) -> None:
    rows = [web(at / 100) for at in range(100)] + [web(at / 50, domain="docs") for at in range(50)]
    corpus = write_corpus(tmp_path / "scored", rows, 200)
    rules = with_cuts(rules_of({"filters": {"top_quality": 0.3}}), corpus, tmp_path)
    none = with_cuts(rules_of({}), corpus, tmp_path / "none")
    for own, rule, kind, match in (
        (rules, "filters.min_quality", ("web", "", ""), r"filters\.top_quality keeps the top 30 % of web \(0\.7\)"),
        (rules, "filters.top_quality", ("", "", ""), "which fraction is meant"),
        (rules, "filters.top_quality", ("web", "", "zh"), "which fraction is meant"),
        (none, "filters.top_quality", ("web", "", ""), "no fraction was taken"),
    ):
        with pytest.raises(ConfigError, match=match) as error:
            border(corpus.scored, own, rule, kind, 3)
        assert error.value.hint
    assert not (tmp_path / "none").exists()
    assert read_cuts(tmp_path / "none") == ()


@pytest.mark.parametrize("value", [0, 1.01, -0.3, float("nan"), 30])
def test_what_is_no_fraction_is_refused(value: float) -> None:
    for changes in ({"top_quality": value}, {"web": {"bottom_advertisement": value}}, {"top_mine": value}):
        with pytest.raises(ConfigError, match="no fraction of the documents"):
            with_shipped({"filters": changes})


def made_filter(path: Path, name: str, is_wanted: bool = True) -> str:
    own = LinearFilter(name, ("0", "1"), is_wanted, NgramSettings((2,), (), 4), np.zeros(16, np.int16), 1.0, 0.0)
    linear_filter.save(path, own)
    return str(path)


def test_thresholds_for_what_is_not_given_are_refused(tmp_path: Path) -> None:
    quality, junk = made_filter(tmp_path / "q", "quality"), made_filter(tmp_path / "j", "junk", is_wanted=False)
    for changes, filters, match in (
        ({"filters": {"top_quality": 0.3}}, (), "no filter called quality is given"),
        ({"filters": {"web": {"top_qualty": 0.3}}}, (quality,), r"filters\.web\.top_qualty is set and no filter called qualty"),
        ({"filters": {"min_quality": 0.7}}, (junk,), "no filter called quality"),
        ({"filters": {"top_junk": 0.3}}, (junk,), "would drop what junk wants kept"),
        ({"filters": {"min_quality": 0.7, "top_quality": 0.3}}, (quality,), "min_quality has no effect"),
        ({"filters": {"web": {"min_quality": 0.7}, "top_quality": 0.3}}, (quality,), r"web\.min_quality has no effect"),
        ({"perplexity": {"bottom_bits_per_byte": 0.3}}, (quality,), "no model is given"),
        ({}, (quality, quality), "two of the filters are called quality"),
    ):
        with pytest.raises(ConfigError, match=match) as error:
            check_given(Thresholds(with_shipped(changes)), FAMILIES, filters, "")
        assert error.value.hint
    with pytest.raises(DataError, match="no filter"):
        check_given(Thresholds(with_shipped({})), FAMILIES, (str(tmp_path / "absent"),), "")
    changes = {"filters": {"top_quality": 0.3, "bottom_junk": 0.9, "web": {"top_quality": False, "min_quality": 0.7}}}
    check_given(Thresholds(with_shipped(changes)), FAMILIES, (quality, junk), "")
    check_given(Thresholds(with_shipped({"filters": {"top_quality": 0.3}})), ("language",), (), "")


def test_a_fraction_of_new_documents_alone_is_refused_where_an_earlier_corpus_was_cut(tmp_path: Path) -> None:
    rules = rules_of({"filters": {"top_quality": 0.3}})
    with_cuts(rules, write_corpus(tmp_path / "s", [web(at / 100) for at in range(100)], 200), tmp_path)
    with pytest.raises(ConfigError, match="of the new documents alone") as error:
        check_earlier(rules, [tmp_path])
    assert "thresholds.filters.web.min_quality = 0.7" in error.value.hint
    check_earlier(rules, [tmp_path], "docs")
    check_earlier(rules_of({"filters": {"web": {"min_quality": 0.7}}}), [tmp_path])
    check_earlier(rules, [tmp_path / "without"])
    (tmp_path / FILE).write_text(json.dumps({"cuts": [{"rule": "x"}]}))
    with pytest.raises(DataError, match=r"top\.json"):
        read_cuts(tmp_path)


def test_what_a_cut_tells() -> None:
    assert Cut("filters.bottom_spam", "", "cjk", 0.125, 0.5, 8, 1).told == "bottom 12.5 % of cjk in no domain"
    assert value_of("filters.bottom_spam") == "filters.max_spam"
    assert value_of("filters.min_top_x") == "filters.min_top_x"


def test_a_rule_that_is_off_is_tuned_from_where_it_takes_little(tmp_path: Path) -> None:
    rows: list[Row] = [
        (("web", "", "en"), {"filters.min_mine": at / 100, "perplexity.max_bits_per_byte": at / 10}) for at in range(101)
    ]
    corpus = write_corpus(tmp_path / "scored", rows, 200)
    for rule, start, setting in (
        ("filters.min_mine", 0.05, "thresholds.filters.web.min_mine"),
        ("perplexity.max_bits_per_byte", 9.5, "thresholds.perplexity.web.max_bits_per_byte"),
    ):
        edge = border(corpus.scored, rules_of({}), rule, ("web", "", ""), 9)
        assert (edge.threshold, edge.is_off, edge.setting, len(edge.taken)) == (start, True, setting, 5)
    for rule in ("filters.mine", "filters", "gopher_repetition.max_top_2gram_chars"):  # the last family is not asked
        with pytest.raises(ConfigError, match="has no threshold"):
            border(corpus.scored, rules_of({}), rule, ("web", "", ""), 9)


def test_documents_that_another_rule_decides_about_are_no_samples(tmp_path: Path) -> None:
    rows = [web(at / 100) for at in range(100)] + [web(at / 50, domain="docs") for at in range(50)]
    corpus = write_corpus(tmp_path / "scored", rows, 200)
    rules = with_cuts(rules_of({"filters": {"web": {"top_quality": 0.3}}}), corpus, tmp_path)
    edge = border(corpus.scored, rules, "filters.min_quality", ("", "", ""), 200)
    assert {place.row for place in (*edge.taken, *edge.left)} == set(range(100, 150))


def test_a_table_of_bounds_alone_makes_no_other_scores() -> None:
    """A fraction for one domain is decided about in seconds: it does not ask for scores of another kind."""
    plain = Thresholds(with_shipped({})).of_scores()
    changes = {"filters": {"web": {"top_quality": 0.3, "min_fluency": 0.2}, "top_fluency": 0.1}}
    assert Thresholds(with_shipped(changes)).of_scores() == plain
    assert Thresholds(with_shipped({"c4": {"web": {"min_words_per_line": 2}}})).of_scores() != plain


def test_the_clean_stage_takes_the_best_and_decides_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{at:02d}" for at in range(40)]
    seeds = [(" ".join([*words[at:], *("bad " * at).split()]), "good" if at < 20 else "bad") for at in range(40)]
    made = trained(seeds, "quality", "good", Training(NgramSettings((2,), (1,), 10), held_out=0.3))
    linear_filter.save(tmp_path / "filter", made)
    lines = [
        {"id": f"{domain}{at}", "text": f"{domain} {at} {text}", "domain": domain}
        for domain in ("web", "docs")
        for at, (text, _) in enumerate(seeds)
    ]
    (tmp_path / "source.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = {"rules": ("filters",), "filters": (str(tmp_path / "filter"),), "workers": 1, "name": "x"}

    def run(name: str, **more: Any) -> list[str]:
        (tmp_path / name).mkdir()
        clean.run(CleanConfig(**config, **more), Output(tmp_path / name))
        return [document.id for document in read_documents(tmp_path / name)]

    kept = run("first", source=str(tmp_path / "source.jsonl"), thresholds={"filters": {"top_quality": 0.25}})
    scores = dict(zip((line["id"] for line in lines), made.scores([line["text"] for line in lines]), strict=True))
    best = {domain: sorted(own for name, own in scores.items() if name.startswith(domain))[-10] for domain in ("web", "docs")}
    assert kept == [line["id"] for line in lines if scores[line["id"]] >= best[line["domain"]]]
    assert {cut.domain: cut.threshold for cut in read_cuts(tmp_path / "first")} == best
    monkeypatch.setattr(clean, "run_all", None)  # nothing is scored again
    fewer = run("again", scores=str(tmp_path / "first"), thresholds={"filters": {"docs": {"top_quality": 0.1}}})
    floor = [line["id"] for line in lines if line["domain"] == "web" and scores[line["id"]] >= 0.5]
    assert [name for name in fewer if name.startswith("web")] == floor
    assert len([name for name in fewer if name.startswith("docs")]) == 4


def test_memory_of_a_cut_is_16_bytes_a_document(tmp_path: Path) -> None:
    rules = rules_of({"filters": {"top_quality": 0.3}})
    peaks = []
    for count in (1000, 2000, 12000):  # the first for what is imported on the way
        corpus = write_corpus(tmp_path / f"{count}", [web(at % 997 / 997) for at in range(count)], 1000)
        tracemalloc.start()
        with_cuts(rules, corpus, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] <= 18 * 10000
