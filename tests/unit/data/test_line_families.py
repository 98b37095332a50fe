"""RefinedWeb's lines, and InternLM2's families: breaks, odd characters, punctuation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.read.normalise import normalise
from lianlu.data.rules import line_breaks, odd_characters, punctuation, refinedweb
from lianlu.data.rules.edits import applied
from lianlu.data.rules.textview import TextView
from lianlu.formats.documents import read_documents

LINES: Mapping[str, Any] = {"max_uppercase_letters": 0.5, "max_numeric_lines": 0, "max_counter_lines": 0, "min_words_per_line": 2}
LENGTHS = {"long_sentence": 100}
ENGLISH = "The keeper opened the door, and the children went in.\nNobody had told them how quiet a library is."
CHINESE = "管理员打开了门，孩子们走了进去。\n没有人告诉过他们，图书馆里这样安静。"


def edited(text: str, limits: Mapping[str, Any] = LINES) -> str:
    return applied(text, refinedweb.line_edits(TextView(text), limits))


@pytest.mark.parametrize(
    "line",
    [
        "SUBSCRIBE TO OUR NEWSLETTER Now",
        "12 likes",
        "1,204 Comments",
        "Views: 3.4k",
        "阅读 1234",
        "3条评论",
        "12万次播放",
        "点赞(5)",
        "2024",
        "10:30 / 11:45",
        "Home",
        "登录",
    ],
)
def test_lines_of_menus_and_counters_are_taken_out(line: str) -> None:
    limits = {**LINES, "min_words_per_line": 4} if "登" in line else LINES
    assert edited(f"{ENGLISH}\n{line}\n{CHINESE}", limits) == f"{ENGLISH}\n{CHINESE}"


@pytest.mark.parametrize(
    "line",
    [
        "NASA sent a probe to Mars.",
        "He likes 12 of them.",
        "In 1912 the ship sank",
        "No.",
        "不。",
        "他读了1234页书",
        "1. Read it",
    ],
)
def test_sentences_stay(line: str) -> None:
    limits = {**LINES, "min_words_per_line": 4} if "。" in line else LINES
    assert edited(f"{ENGLISH}\n{line}", limits).endswith(line)


def test_rules_for_lines_can_be_turned_off() -> None:
    assert refinedweb.line_edits(TextView("HOME\n12 likes"), dict.fromkeys(LINES, False)) == []


def test_a_page_is_measured_by_the_words_it_loses() -> None:
    view = TextView("one two three four five six\nHOME PAGE\nseven eight")
    assert dict(refinedweb.signals(view, refinedweb.line_edits(view, LINES))) == {"max_removed_words": 0.2}
    assert dict(refinedweb.signals(TextView(""), [])) == {"max_removed_words": 0}


@given(st.text(alphabet="aA1 .\n个，", max_size=80))
def test_lines_are_whole_and_what_is_left_stays(text: str) -> None:
    view = TextView(text)
    edits = refinedweb.line_edits(view, LINES)
    assert all(edit.start == 0 or text[edit.start - 1] == "\n" for edit in edits)
    assert all(edit.end == len(text) or text[edit.end - 1] == "\n" for edit in edits)
    left = [line for line in text.split("\n") if line.strip()]
    taken = [text[edit.start : edit.end].strip("\n") for edit in edits]
    assert sorted([line for line in applied(text, edits).split("\n") if line.strip()] + taken) == sorted(left)


@pytest.mark.parametrize(
    ("text", "key", "least"),
    [
        ("It is an exam-\nple of what hap-\npens to pages.", "max_cut_words", 0.6),
        ("管理员打开\n了门孩子\n们走了进去", "max_cut_sentences", 0.6),
        ("It was late.Then she came.And so on.", "max_glued_sentences", 0.9),
        ("First line.\\nSecond line.\\n\\nThird.", "max_escaped_breaks", 3),
        ("Text\n" + "-" * 40 + "\n" + "=-" * 20 + "\nmore", "max_separator_chars", 0.8),
        ("a\nb\nc\n你\nthe end of it", "max_tiny_lines", 0.8),
        ("word " * 5000, "max_line_chars", 24_000),
    ],
)
def test_broken_lines_are_seen(text: str, key: str, least: float) -> None:
    assert dict(line_breaks.signals(TextView(text)))[key] >= least


def test_good_texts_have_no_broken_lines() -> None:
    for text in (ENGLISH, CHINESE, "A well-known\nfact. See os.Path or Node.js, C:\\new.", ""):
        found = dict(line_breaks.signals(TextView(text)))
        assert not any(value for key, value in found.items() if key != "max_line_chars"), (text, found)


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (lambda text: text.encode().decode("latin-1"), "max_mojibake_chars"),
        (lambda text: text.encode().decode("cp1252", "ignore"), "max_mojibake_chars"),
        (lambda text: text.encode().decode("gbk", "ignore"), "max_mojibake_chars"),
        (lambda text: text.encode("gbk").decode("latin-1"), "max_mojibake_chars"),
        (lambda text: text.encode("gbk").decode("utf-8", "replace"), "max_replacement_chars"),
        (lambda text: "锟斤拷" + text, "max_replacement_chars"),
        (lambda text: text + "\ue000\uf8ff", "max_private_use"),
        (lambda text: text + "☆★♥" * 3, "max_symbols"),
    ],
)
def test_what_encodings_do_to_chinese_is_seen(made: Any, key: str) -> None:
    text = "这是一个测试，我们在这里写的是中文。因为这样的文字经常出现在网页上，所以要看得出来。"
    assert dict(odd_characters.signals(TextView(text)))[key] == 0
    assert dict(odd_characters.signals(TextView(normalise(made(text)))))[key] > 0.02


def test_accents_are_no_mojibake_and_controls_count() -> None:
    french = "Âgée, la créée fée a été à Épernay, où l’hôtel « Zoë » naît; Ångström, señor, größer, ÇA."
    assert not any(dict(odd_characters.signals(TextView(french))).values())
    assert dict(odd_characters.signals(TextView("cafÃ© itâ€™s")))["max_mojibake_chars"] == pytest.approx(5 / 12)
    assert dict(odd_characters.signals(TextView("a\x01b\x02")))["max_control_chars"] == 0.5


def test_punctuation_is_counted_per_hundred_words() -> None:
    found = dict(punctuation.signals(TextView(ENGLISH), LENGTHS))
    assert found["min_marks"] == found["max_marks"] == pytest.approx(100 * 3 / 19)
    found = dict(punctuation.signals(TextView(CHINESE), {"long_sentence": 18}))
    assert found["min_marks"] == pytest.approx(100 * 4 / len(CHINESE.replace("\n", "")))
    assert found["min_median_sentence"] == pytest.approx((15 + 17) / 2)


def test_runs_and_half_width_marks() -> None:
    assert dict(punctuation.signals(TextView("快来买！！！真便宜？？？？今天"), LENGTHS))["max_mark_runs"] > 10
    assert dict(punctuation.signals(TextView("管理员开了门,孩子们走了.他说,好。"), LENGTHS))["max_half_width_marks"] == 0.75
    assert "max_half_width_marks" not in dict(punctuation.signals(TextView(ENGLISH), LENGTHS))


def test_lost_marks_make_endless_sentences() -> None:
    text = "word " * 500
    found = dict(punctuation.signals(TextView(text), LENGTHS))
    assert found["min_marks"] == 0
    assert found["max_in_long_sentences"] == 1


@given(st.text(max_size=60))
def test_any_text_has_signals(text: str) -> None:
    view = TextView(text)
    for found in (line_breaks.signals(view), odd_characters.signals(view), punctuation.signals(view, LENGTHS)):
        assert all(value >= 0 for _, value in found)


def test_real_texts_have_no_odd_characters(shared_data: Path) -> None:
    texts = [document.text for document in read_documents(shared_data / "corpora" / "zh_modern_prose.jsonl.gz")]
    shares = [dict(odd_characters.signals(TextView(text)))["max_mojibake_chars"] for text in texts[:100]]
    assert max(shares) < 0.002
    broken = [text[:3000].encode().decode("gbk", "ignore") for text in texts[:100]]
    assert min(dict(odd_characters.signals(TextView(text)))["max_mojibake_chars"] for text in broken) > 0.01
