"""Linear filters: n-grams, training, file format, figures, and real data they were not trained on."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as packed

from lianlu.core.errors import ConfigError, DataError
from lianlu.data import train_filter as train_filter_module
from lianlu.data.filters import linear_filter, logistic, ngrams
from lianlu.data.filters.linear_filter import LinearFilter
from lianlu.data.filters.ngrams import NgramSettings, hashed, pieces
from lianlu.data.filters.related import MAX_RELATED, relations
from lianlu.data.rules.textview import TextView
from lianlu.data.train_filter import Training, auc, figures, train_filter, trained
from lianlu.formats.documents import read_documents

SMALL = Training(NgramSettings((2, 3), (1, 2), 14))
GOOD = ("the keeper opened {} and the children went {} without a word", "管理员打开了{}，孩子们走进了{}，没有人说话")
SPAM = ("buy cheap {} now, free {} shipping, click here!!!", "特价{}，加微信{}，全国包邮！！！")
NAMES = ("door", "garden", "library", "window", "harbour", "大门", "花园", "图书馆", "窗户", "海港")


def seeds(count: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)

    def made(frames: tuple[str, str]) -> str:
        return " ".join(rng.choice(frames).format(*rng.sample(NAMES, 2)) for _ in range(4))

    return [(made(SPAM if number % 2 else GOOD), "spam" if number % 2 else "good") for number in range(count)]


def buckets(text: str, own: NgramSettings) -> list[list[int]]:
    return [grams.buckets[grams.starts[0] : grams.ends[-1]].tolist() for grams in hashed([text], own)]


TEXT = st.text(alphabet="aB1 \n，。你好éß\u3000\x01😀\U0002a6d6", max_size=30)


@settings(deadline=None)  # the first text waits for the table of characters
@given(st.lists(TEXT, min_size=1, max_size=6))
def test_ngrams_do_not_depend_on_the_batch(texts: list[str]) -> None:
    own = NgramSettings((1, 2, 4), (1, 3), 16)
    for place, grams in enumerate(hashed(texts, own)):
        for number, text in enumerate(texts):
            assert 0 <= grams.starts[number] <= grams.ends[number] <= len(grams.buckets)
            assert grams.buckets[grams.starts[number] : grams.ends[number]].tolist() == buckets(text, own)[place]


@settings(deadline=None)
@given(TEXT, TEXT)
def test_ngrams_are_as_counted_by_hand(text: str, other: str) -> None:
    """As many n-grams as folded characters and words have; equal n-grams get equal buckets, different ones different ones."""
    own = NgramSettings((2,), (1,), 24)
    folded = " ".join(re.sub(r"\d", "0", text).lower().split())
    chars, words = buckets(text, own)
    assert len(chars) == (len(folded) + 1 if folded else 0)
    pairs = [f" {folded} "[place : place + 2] for place in range(len(chars))]
    assert len(set(pairs)) == len(set(chars)) == len(set(zip(pairs, chars, strict=True)))
    tokens = TextView(re.sub(r"\d", "0", text)).tokens()
    assert len(words) == len(tokens)
    assert len(set(zip(tokens, words, strict=True))) == len(set(words)) == len(set(tokens))
    assert (tokens == TextView(re.sub(r"\d", "0", other)).tokens()) == (words == buckets(other, own)[1])


def test_case_digits_and_white_space_are_folded() -> None:
    own = NgramSettings()
    assert buckets("Call 1234\n\n NOW", own) == buckets("  call 5678 now ", own)
    assert buckets("call 12 now", own) != buckets("call 123 now", own)


def test_long_texts_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "PIECE_CHARS", 10)
    texts = ["abc", "x" * 25, "", "de"]
    found = list(pieces(texts))
    assert [
        "".join(piece for numbers, batch in found for own, piece in zip(numbers, batch, strict=True) if own == n)
        for n in range(4)
    ] == texts
    assert all(sum(map(len, batch)) <= 10 for _, batch in found)


def test_training_finds_the_least_loss() -> None:
    """Against gradient descent's own test: no step in any direction lowers the loss, and scikit-learn agrees."""
    rows, labels = seeds(60), np.array([True, False] * 30)
    counts = logistic.counted([text for text, _ in rows], NgramSettings((2,), (1,), 10))
    weights, bias = logistic.fit(counts, labels, 0.1)
    dense = np.zeros((60, 1 << 10))
    np.add.at(dense, (counts.rows, counts.buckets), counts.shares)
    seen = (dense > 0).sum(axis=0) >= logistic.MIN_TEXTS
    rest = dense[:, ~seen].sum(axis=1, keepdims=True)
    features = np.hstack([dense[:, seen], rest])
    features = features / np.sqrt(np.maximum(features.mean(axis=0), 1e-12))
    linear_model = pytest.importorskip("sklearn.linear_model")
    peer = linear_model.LogisticRegression(C=1 / (0.1 * 60), class_weight="balanced", tol=1e-10, max_iter=5000).fit(
        features, labels
    )
    assert dense @ weights + bias == pytest.approx(peer.decision_function(features), abs=2e-3)


def test_a_filter_tells_spam_whatever_the_order_and_keeps_its_scores(tmp_path: Path) -> None:
    rows = seeds(400)
    made = trained(rows, "advertisement", "spam", SMALL)
    assert made.labels == ("good", "spam")
    assert made.key == "max_advertisement"
    assert made.figures["auc"] > 0.99
    shuffled = random.Random(3).sample(rows, len(rows)) + rows[:50]
    again = trained(shuffled, "advertisement", "spam", SMALL)
    for name, filter_ in (("a", made), ("b", again)):
        linear_filter.save(tmp_path / name, filter_)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = linear_filter.load(tmp_path / "a")
    texts = [text for text, _ in seeds(30, seed=8)] + ["", " ", "你" * 200_000]
    assert (read.scores(texts) == made.scores(texts)).all()
    assert [read.scores([text])[0] for text in texts] == made.scores(texts).tolist()
    assert replace(read, weights=made.weights) == replace(made, weights=made.weights)
    assert dict(linear_filter.signals(texts[1], [read]))["max_advertisement"] == made.scores(texts)[1] > 0.5


def test_no_figure_comes_from_a_text_that_was_trained_on() -> None:
    """Labels drawn by lot cannot be learnt: held-out figures must be those of a coin."""
    rng = random.Random(5)
    rows = [(text + f" {number}", rng.choice(["0", "1"])) for number, (text, _) in enumerate(seeds(600))] * 2
    made = trained(rows, "quality", training=SMALL)
    assert 0.3 < made.figures["auc"] < 0.7
    assert made.figures["texts_to_train_on"] + made.figures["held_out_positive"] + made.figures["held_out_negative"] == 600


def story(rng: random.Random) -> str:
    """Sentences of one frame about things of their own."""
    names = (["".join(rng.choices("bdfgklmnprst", k=4)) for _ in range(6)] for _ in range(5))
    return " ".join("{} {} {} {} of the {} {}".format(*own) for own in names)


def mixed(rng: random.Random, text: str) -> str:
    words = text.split()
    return " ".join(rng.sample(words, len(words)))


def test_junk_that_was_made_of_a_good_text_is_held_out_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held out apart, the words that only the two have speak for the wrong label, and a perfect filter looks like a coin."""
    rng = random.Random(2)
    good = [story(rng) for _ in range(120)]
    rows = [(text, "fluent") for text in good] + [(mixed(rng, text), "junk") for text in good]
    own = Training(NgramSettings((2, 3, 4), (1, 2), 16), held_out=0.3)
    made = trained(rows, "fluency", "fluent", own)
    assert made.figures["held_out_positive"] == made.figures["held_out_negative"] > 20
    others = [story(rng) for _ in range(50)]
    others += [mixed(rng, text) for text in others]
    truth = auc(made.scores(others), np.array([True] * 50 + [False] * 50))
    assert truth > 0.98
    assert made.figures["auc"] == pytest.approx(truth, abs=0.02)
    monkeypatch.setattr(train_filter_module, "relations", lambda texts: range(len(texts)))
    assert trained(rows, "fluency", "fluent", own).figures["auc"] < 0.7


def test_texts_are_related_by_their_words_unless_all_are() -> None:
    rng = random.Random(4)
    texts = [story(rng) for _ in range(6)] + ["今天天气很好我们去公园走走看看花草树木" * 3, "", "  "]
    junk = [mixed(rng, text) for text in texts[:5]] + ["".join(rng.sample(texts[6], len(texts[6])))]
    assert relations([*texts, *junk]) == [*range(9), 0, 1, 2, 3, 4, 6]
    assert relations([*junk, *texts])[:6] == list(range(6))
    assert relations(["buy this now and here"] * MAX_RELATED) == [0] * MAX_RELATED
    assert relations(["buy this now and here"] * (MAX_RELATED + 1)) == list(range(MAX_RELATED + 1))


def test_a_filter_says_how_it_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = seeds(120)
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({"text": t, "label": float(own == "spam")}) for t, own in rows))
    wanted = train_filter(tmp_path / "s.jsonl", tmp_path / "f", "mine", training=SMALL)
    assert (wanted.key, wanted.labels) == ("min_mine", ("0", "1"))
    assert "thresholds.filters.min_mine = 0.5, or thresholds.filters.top_mine" in capsys.readouterr().out
    unwanted = train_filter(tmp_path / "s.jsonl", tmp_path / "f", "mine", training=SMALL, is_unwanted=True)
    assert unwanted.key == linear_filter.load(tmp_path / "f").key == "max_mine"
    shown = capsys.readouterr()
    assert "high scores are dropped" in shown.out
    assert "hardly told apart" not in shown.err
    rng = random.Random(5)
    lots = [{"text": f"{text} {at}", "label": rng.choice("01")} for at, (text, _) in enumerate(seeds(500))]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lots)))
    train_filter(tmp_path / "s.jsonl", tmp_path / "f", "mine", training=SMALL)
    assert "hardly told apart" in capsys.readouterr().err


def test_seeds_from_a_file_and_from_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = seeds(120)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "seeds.jsonl").write_text("\n".join([*lines, "{broken", '{"text": "no label"}', '{"text": "", "label": "good"}']))
    for number, (text, label) in enumerate(rows):
        (tmp_path / "folders" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folders" / label / f"{number}.txt").write_text(text)
    (tmp_path / "folders" / ".cache").mkdir()
    first = train_filter(tmp_path / "seeds.jsonl", tmp_path / "a.filter", "quality", "good", SMALL)
    shown = capsys.readouterr()
    assert f"AUC {first.figures['auc']:.4f}" in shown.out
    assert "precision" in shown.out
    assert "3 of 123 seeds" in shown.err
    train_filter(tmp_path / "folders", tmp_path / "b.filter", "quality", "good", SMALL)
    assert (tmp_path / "a.filter").read_bytes() == (tmp_path / "b.filter").read_bytes()
    assert linear_filter.load(tmp_path / "a.filter").key == "min_quality"


def test_bad_seeds_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither"):
        train_filter(tmp_path / "absent", tmp_path / "f")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no seeds"):
        train_filter(tmp_path / "empty.jsonl", tmp_path / "f")
    with pytest.raises(ConfigError, match="two labels"):
        trained([("a", "1"), ("b", "0"), ("c", "2")], "quality")
    with pytest.raises(ConfigError, match="which of good, spam"):
        trained(seeds(60), "quality")
    with pytest.raises(ConfigError, match="labelled best"):
        trained(seeds(60), "quality", "best")
    with pytest.raises(DataError, match="too few"):
        trained(seeds(8), "quality", "good")
    with pytest.raises(ConfigError, match="cannot be called"):
        train_filter(tmp_path, tmp_path / "f", "a b")
    assert not (tmp_path / "f").exists()


def test_bad_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no filter"):
        linear_filter.load(tmp_path / "absent")
    path = tmp_path / "filter"
    filter_ = LinearFilter("quality", ("0", "1"), True, NgramSettings((2,), (), 4), np.zeros(16, np.int16), 1.0, 0.0)
    linear_filter.save(path, filter_)
    whole = path.read_bytes()
    for content, match in (
        (whole[:-5], "damaged"),
        (b"nonsense", "damaged"),
        (whole.replace(b'\\"bits\\": 4', b'\\"bits\\": 5'), "damaged"),
        (whole.replace(b'\\"format\\": 1', b'\\"format\\": 2'), "newer"),
        (packed({"weights": np.zeros(4, np.int16)}), "no filter of lianlu"),
    ):
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(DataError, match=match):
            linear_filter.load(path)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert auc(scores, labels) == pytest.approx(sum(pairs) / max(len(pairs), 1))


def test_figures_are_precision_and_recall() -> None:
    found = figures(np.array([0.2, 0.6, 0.8, 0.95]), np.array([False, False, True, True]))
    assert found["auc"] == 1
    assert {row["threshold"]: (row["precision"], row["recall"]) for row in found["at"]} == {
        0.1: (0.5, 1), 0.3: (0.6667, 1), 0.5: (0.6667, 1), 0.7: (1, 1), 0.9: (1, 0.5),
    }  # fmt: skip


def test_real_texts_against_junk_made_another_way(shared_data: Path) -> None:
    """Trained on proposals and articles against shuffled words and UTF-8 read as Latin-1; held against other corpora, and UTF-8
    and GBK read as each other."""
    corpora = shared_data / "corpora"

    def passages(name: str, count: int) -> list[str]:
        return [
            document.text[1000:2000] for document in read_documents(corpora / f"{name}.jsonl.gz") if len(document.text) > 2000
        ][:count]

    rng = random.Random(1)
    good = passages("en_peps", 300) + passages("zh_lctt", 300)
    junk = [text.encode().decode("latin-1") for text in passages("zh_lctt", 150)]
    junk += [" ".join(rng.sample(text.split(), len(text.split()))) for text in passages("en_peps", 150)]
    junk += ["".join(rng.sample(text, len(text))) for text in passages("zh_lctt", 150)]
    made = trained([(text, "1") for text in good] + [(text, "0") for text in junk], "fluency")
    others = passages("en_rust_rfcs", 150) + passages("zh_modern_prose", 150)
    prose = passages("zh_modern_prose", 150)
    broken = [text.encode().decode("gbk", "replace") for text in prose] + [
        text.encode("gbk", "replace").decode("latin-1") for text in prose
    ]
    scores = made.scores([*others, *broken])
    labels = np.array([True] * len(others) + [False] * len(broken))
    assert made.figures["auc"] > 0.8
    assert auc(scores, labels) > 0.95
