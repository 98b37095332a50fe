"""Lines and paragraphs that a corpus repeats."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianlu.core.pool import Here, Pool
from lianlu.data.dedup.line_dedup import find_repeated, read_edits, read_left, with_repeated
from lianlu.data.dedup.line_units import RULES, units
from lianlu.data.read.sources import RECORD, Raw
from lianlu.data.rules.edits import LINE, Edit, applied
from lianlu.data.rules.thresholds import Thresholds, shipped
from lianlu.data.scores.score import Settings
from lianlu.data.scores.scored import chunks_in, run_chunk
from lianlu.formats.documents import Document

SETTINGS = Settings((), Thresholds(shipped()))
LIMITS = {"max_line_documents": 2, "max_paragraph_documents": False, "max_places": 1, "min_chars": 4}
SUBSCRIBE = "Subscribe to our letter, it costs nothing."


def scored_in(folder: Path, texts: list[str], per_chunk: int = 3, domain: str = "web") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    raws = [Raw(f"{n}", RECORD, len(text), document=Document(f"{n}", text, domain=domain)) for n, text in enumerate(texts)]
    for start in range(0, len(raws), per_chunk):
        run_chunk(folder, start // per_chunk, raws[start : start + per_chunk], SETTINGS)
    return folder


def cleaned(tmp_path: Path, texts: list[str], per_chunk: int = 3, partitions: int = 1, **limits: object) -> list[str]:
    """The texts with the edits made."""
    scored = scored_in(tmp_path / "scored", texts, per_chunk)
    chunks = chunks_in(scored)
    table = Thresholds({"line_dedup": {**LIMITS, **limits}})
    find_repeated(scored, tmp_path / "edits", [None] * len(chunks), table, Here(), partitions)
    return [
        applied(document.text, edits)
        for number, chunk in enumerate(chunks)
        for document, edits in zip(chunk.documents(), read_edits(tmp_path / "edits", number, len(chunk)), strict=True)
    ]


def test_a_line_in_more_than_k_documents_stays_in_its_first_places_alone(tmp_path: Path) -> None:
    texts = [f"Story number {'abcd'[n]} begins.\n{SUBSCRIBE}\nIt ends {'wxyz'[n]}." for n in range(4)]
    got = cleaned(tmp_path / "1", texts)
    assert [SUBSCRIBE in text for text in got] == [True, False, False, False]
    assert got[3] == "Story number d begins.\nIt ends z."
    assert [SUBSCRIBE in text for text in cleaned(tmp_path / "3", texts, max_places=3)] == [True, True, True, False]
    assert [SUBSCRIBE in text for text in cleaned(tmp_path / "0", texts, max_places=0)] == [False] * 4
    assert cleaned(tmp_path / "k", texts, max_line_documents=4) == texts


def test_case_digits_and_punctuation_do_not_matter_and_short_lines_stay(tmp_path: Path) -> None:
    texts = ["Posted on 2019-03-04\nyes", "posted on: 2020-11-30\nyes", "POSTED ON 1999/01/01!\nyes"]
    assert cleaned(tmp_path / "dates", texts) == [texts[0], "yes", "yes"]
    links = [f"See https://example.org/{n}\nyes" for n in range(5)]
    assert cleaned(tmp_path / "links", links) == links


def test_a_paragraph_goes_as_a_whole_and_lines_that_a_rule_takes_out_do_not_count() -> None:
    text = "First line here.\nSecond line here.\n\nalone in its block\n\nthird line here\ngone\nfourth line here"
    gone = [Edit(text.index("gone"), text.index("gone") + 5, "", LINE, "c4.x")]
    limits = {**LIMITS, "max_paragraph_documents": 1}
    made = units(text, limits, gone)
    places = zip(made.starts, made.ends, made.hashes, strict=True)
    found = [(RULES[int(hashed) & 1], text[start:end]) for start, end, hashed in places]
    assert found == [
        ("max_paragraph_documents", "First line here.\nSecond line here.\n"),
        ("max_line_documents", "First line here.\n"),
        ("max_line_documents", "Second line here.\n"),
        ("max_line_documents", "alone in its block\n"),
        ("max_line_documents", "third line here\n"),
        ("max_line_documents", "fourth line here"),
    ]


def test_a_repeated_paragraph_is_one_edit(tmp_path: Path) -> None:
    notice = "All rights are reserved.\nNo part may be copied."
    texts = [f"{'abc'[n]} tells a story.\n\n{notice}\n\nThe {'xyz'[n]} end." for n in range(3)]
    got = cleaned(tmp_path, texts, max_paragraph_documents=2)
    assert got == [texts[0], "b tells a story.\n\nThe y end.", "c tells a story.\n\nThe z end."]
    assert sum(len(own) for own in read_edits(tmp_path / "edits", 0, 3)) == 2
    gone = (len(notice) + 1) / len(texts[1])
    assert read_left(tmp_path / "edits", 0, 3) == pytest.approx([1, 1 - gone, 1 - gone])


def test_only_documents_that_are_looked_at_count_and_are_edited(tmp_path: Path) -> None:
    scored = scored_in(tmp_path / "scored", [SUBSCRIBE] * 4, per_chunk=4)
    table = Thresholds({"line_dedup": {**LIMITS, "code": {"max_line_documents": False}}})
    assert find_repeated(scored, tmp_path / "e", [np.array([1, 3])], table, Here())["line_dedup.max_line_documents"] == 0
    assert find_repeated(scored, tmp_path / "e", [np.array([0, 1, 3])], table, Here())["line_dedup.max_line_documents"] == 2
    assert [len(own) for own in read_edits(tmp_path / "e", 0, 4)] == [0, 1, 0, 1]
    code = scored_in(tmp_path / "code", [SUBSCRIBE] * 4, per_chunk=4, domain="code")
    assert find_repeated(code, tmp_path / "c", [None], table, Here())["line_dedup.max_line_documents"] == 0


def test_the_outcome_depends_on_neither_workers_nor_partitions(tmp_path: Path) -> None:
    texts = [f"{SUBSCRIBE}\nline of {n % 7}{'abcdefg'[n % 7]}\nown {'xy' * n}" for n in range(20)]
    scored = scored_in(tmp_path / "scored", texts)
    made = []
    for number, (engine, partitions) in enumerate([(Here(), 1), (Pool(2), 4), (Here(), 64)]):
        folder = tmp_path / f"e{number}"
        find_repeated(scored, folder, [None] * 7, Thresholds({"line_dedup": LIMITS}), engine, partitions)
        made.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 7


def by_definition(texts: list[list[str]], k: int, m: int) -> list[list[str]]:
    """What stays of each document, counted in the plainest way."""
    documents = Counter(line for lines in texts for line in set(lines))
    met = Counter[str]()
    left = []
    for lines in texts:
        own = []
        for line in lines:
            met[line] += 1
            if documents[line] <= k or met[line] <= m:
                own.append(line)
        left.append(own)
    return left


LINES = [f"the {name} line" for name in ("red", "blue", "green", "black")]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(LINES), min_size=1, max_size=5), min_size=1, max_size=9),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([(1, 1), (2, 4), (9, 16)]),
)
def test_what_stays_is_as_counted_by_hand(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], k: int, m: int, cut: tuple[int, int]
) -> None:
    got = cleaned(
        tmp_path_factory.mktemp("lines"),
        ["\n".join(lines) for lines in texts],
        *cut,
        max_line_documents=k,
        max_places=m,
    )
    assert [text.split("\n") if text else [] for text in got] == by_definition(texts, k, m)


def test_edits_come_together_without_overlap() -> None:
    own = [Edit(0, 5, "", LINE, "c4.x"), Edit(6, 8, "<EMAIL>", "email", "pii.email"), Edit(22, 24, "<IP>", "ip", "pii.ip")]
    lines = [Edit(5, 12, "", LINE, "line_dedup.max_line_documents")]
    assert [edit.start for edit in with_repeated(own, lines)] == [0, 5, 22]
    assert with_repeated(own, []) == own
