"""Blocked domains, weighted words, and languages paragraph by paragraph."""

from __future__ import annotations

import gzip
import io
import re
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.core.errors import DataError, MissingExtraError
from lianlu.data.rules import blocked_domains, paragraph_language, unsafe_words
from lianlu.data.rules.blocked_domains import BlockedDomains
from lianlu.data.rules.textview import TextView
from lianlu.data.rules.unsafe_words import UnsafeWords
from lianlu.formats.documents import read_documents

LABEL = st.text("abc", min_size=1, max_size=3)


def test_a_domain_stands_for_all_below_it() -> None:
    blocked = BlockedDomains([b"bad.example", b".worse.org.", "bücher.de".encode()])
    for url in (
        "https://bad.example/x",
        "http://a.b.BAD.example:80/",
        "worse.org/page",
        "//www.worse.org",
        "http://xn--bcher-kva.de/",
        "http://bücher.de",
    ):
        assert blocked.holds(url), url
    for url in (
        "https://notbad.example/x",
        "https://example/",
        "http://bad.example.com",
        "",
        "no url at all",
        "http://[::1",
        "http://",
    ):
        assert not blocked.holds(url), url
    assert dict(blocked_domains.signals("http://bad.example", blocked)) == {"max_blocked_domains": 1}


@given(st.lists(st.lists(LABEL, min_size=2, max_size=3), min_size=1), st.lists(LABEL, min_size=2, max_size=4))
def test_lookup_equals_a_search_by_hand(names: list[list[str]], host: list[str]) -> None:
    listed = {".".join(name) for name in names}
    blocked = BlockedDomains([name.encode() for name in listed])
    assert len(blocked) == len(listed)
    assert blocked.holds(f"http://{'.'.join(host)}/a") == any(".".join(host[start:]) in listed for start in range(len(host)))


def test_lists_of_domains_are_read_from_text_gzip_and_tar(tmp_path: Path) -> None:
    content = b"# adult\nBad.example   # comment\n\nworse.org\r\n"
    (tmp_path / "list.txt").write_bytes(content)
    (tmp_path / "list.gz").write_bytes(gzip.compress(content))
    with tarfile.open(tmp_path / "list.tar.gz", "w:gz") as archive:
        for name, own in (("adult/domains", content), ("adult/urls", b"other.org")):
            info = tarfile.TarInfo(name)
            info.size = len(own)
            archive.addfile(info, io.BytesIO(own))
    for name in ("list.txt", "list.gz", "list.tar.gz"):
        found = blocked_domains.load(str(tmp_path / name))
        assert len(found) == 2, name
        assert found.holds("http://bad.example")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(content)[:20])
    for name in ("empty.txt", "cut.gz", "absent.txt"):
        with pytest.raises(DataError, match=name):
            blocked_domains.load(str(tmp_path / name))


def test_the_list_of_datatrove_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match="datatrove"):
        blocked_domains.load("datatrove")
    (tmp_path / "datatrove" / "assets").mkdir(parents=True)
    (tmp_path / "datatrove" / "__init__.py").touch()
    with pytest.raises(DataError, match="no list"):
        blocked_domains.load("datatrove")
    with tarfile.open(tmp_path / "datatrove" / "assets" / "url_filterblacklistsv9.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("domains")
        info.size = 8
        archive.addfile(info, io.BytesIO(b"bad.org\n"))
    assert blocked_domains.load("datatrove").holds("https://www.bad.org/")


def test_words_are_a_score_by_whole_tokens() -> None:
    words = UnsafeWords({"ass": 1, "free money": 3, "free": 0.5, "赌博": 2, "免费彩金": 4})
    assert words.per_thousand(TextView("class pass grass")) == 0
    assert words.per_thousand(TextView("An ASS is an animal.")) == pytest.approx(1000 / 5)
    assert words.per_thousand(TextView("Free, money! free")) == pytest.approx(1000 * 3.5 / 3)
    assert words.per_thousand(TextView("网上赌博送免费彩金")) == pytest.approx(1000 * 6 / 9)
    assert words.per_thousand(TextView("")) == 0


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.dictionaries(st.sampled_from("abcd"), st.floats(0, 9)))
def test_single_words_add_up(tokens: list[str], weights: dict[str, float]) -> None:
    expected = 1000 * sum(weights.get(token, 0) for token in tokens) / max(len(tokens), 1)
    assert UnsafeWords(weights).per_thousand(TextView(" ".join(tokens))) == pytest.approx(expected)


def test_lists_of_words_have_weights(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# weighted\nbad\nvery bad\t3\n\n赌博\t2.5\n", encoding="utf-8")
    found = unsafe_words.load(path)
    assert dict(unsafe_words.signals(TextView("very bad 赌博 x"), found)) == {"max_unsafe_words": 1000 * 5.5 / 5}
    for content, match in (("bad\tmuch\n", "line 1"), ("bad\tnan\n", "line 1"), ("#\n", "no words")):
        path.write_text(content)
        with pytest.raises(DataError, match=match):
            unsafe_words.load(path)
    with pytest.raises(DataError, match="absent"):
        unsafe_words.load(tmp_path / "absent.txt")


MIXED = """The keeper opened the door and the children went in, one after the other, without a word.

管理员打开了门，孩子们一个接一个地走了进去，没有人说话。

def opened(door: str) -> bool:
    return door.startswith("open")

42"""


def test_shares_by_paragraph() -> None:
    blocks = MIXED.split("\n\n")
    total = sum(map(len, blocks))
    found = paragraph_language.shares(TextView(MIXED), 0.5)
    assert found == {
        lang: pytest.approx(len(block) / total) for lang, block in zip(("en", "zh", "code", ""), blocks, strict=True)
    }
    signals = dict(paragraph_language.signals(TextView(MIXED), {"paragraph_probability": 0.5}))
    assert signals["max_code"] == pytest.approx(len(blocks[2]) / total)
    assert signals["min_main_language"] == pytest.approx(len(blocks[0]) / (len(blocks[0]) + len(blocks[1])))
    assert paragraph_language.shares(TextView(""), 0.5) == {}


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("図書館の扉が開いて、子供たちが入ってきました。", "ja"),
        ("도서관의 문이 열리고 아이들이 들어왔습니다", "ko"),
        ("Return of the king, and import duties are rising for all.", "en"),
        ("import os", "code"),
        ("for (int i = 0; i < n; i++) {\n    total += i;\n}", "code"),
        ("$ pip install lianlu\n$ lianlu run", "code"),
        ("12.5 | 13", ""),
    ],
)
def test_one_paragraph(text: str, lang: str) -> None:
    assert paragraph_language.language_of(text)[0] == lang


def test_mixed_real_paragraphs(shared_data: Path) -> None:
    """Precision and recall over paragraphs of real English, Chinese and code."""
    corpora = shared_data / "corpora"

    def blocks(name: str, between: str, wanted: str) -> list[str]:
        texts = [document.text.replace("\r\n", "\n") for document in read_documents(corpora / f"{name}.jsonl.gz")]
        pieces = (piece.strip("\n") for text in texts for piece in re.split(between, re.sub(r'(?s)""".*?"""', "", text)))
        return [piece for piece in pieces if 40 <= len(piece) <= 600 and re.match(wanted, piece)][:400]

    gold = [("zh", block) for block in blocks("zh_modern_prose", r"\n", ".")]
    gold += [("en", block) for block in blocks("en_rust_rfcs", r"\n\n", r"[A-Z][\w ,;:'()\n-]+\.$")]
    gold += [("code", block) for block in blocks("code_thealgorithms", r"\n\n", "def |class |    ")]
    found = [(label, paragraph_language.language_of(block)[0]) for label, block in gold]
    for lang in ("zh", "en", "code"):
        right = found.count((lang, lang))
        assert right / sum(label == lang for label, _ in found) > 0.95, lang
        assert right / sum(own == lang for _, own in found) > 0.95, lang
