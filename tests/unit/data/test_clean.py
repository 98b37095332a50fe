from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lianlu.core.config import aside_fields, canonical, validate, with_overrides
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.scores import scored as chunks
from lianlu.formats.documents import Document, read_documents

SYLLABLES = [
    "ba",
    "ko",
    "li",
    "mer",
    "tan",
    "dor",
    "sil",
    "ven",
    "gar",
    "pel",
    "mi",
    "sha",
    "rot",
    "nel",
    "fi",
    "lum",
    "har",
    "jo",
    "wes",
]


def story(seed: int, sentences: int = 14) -> str:
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))

    frames = (
        "The {} {} with {} to {}.",
        "Of {} and {}, {} have {}.",
        "{} that {} must be {} by the {}.",
        "To {} is to {} {} and {}.",
    )
    made = [rng.choice(frames).format(word(), word(), word(), word()) for _ in range(sentences)]
    return "\n".join(" ".join(made[n : n + 3]) for n in range(0, sentences, 3))


def make_corpus(folder: Path, count: int = 40) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03d}.txt").write_text(story(number))
    (folder / "again.txt").write_text(story(3).replace("\n", "\n\n"))
    (folder / "nearly.txt").write_text(story(4) + " One more thing was said.")
    (folder / "mail.txt").write_text(story(1000) + " Write to jane@company.org.")
    (folder / "short.txt").write_text("Nothing much.")
    (folder / "binary.dat").write_bytes(bytes(range(256)))
    (folder / "module.py").write_text(
        "".join(f"def name_{n}(value):\n    # {n} times as much\n    return value * {n}\n\n" for n in range(12))
    )
    lines = [json.dumps({"id": f"r{n}", "text": story(3000 + n)}) for n in range(5)]
    (folder / "records.jsonl").write_text("\n".join([*lines, "{broken", lines[0]]))
    return folder


def run(source: Path, target: Path, *overrides: str) -> Output:
    target.mkdir(exist_ok=True)
    out = Output(target)
    clean.run(validate(CleanConfig, with_overrides({"source": str(source), "workers": 1}, overrides)), out)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "texts")


@pytest.fixture(scope="module")
def cleaned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    return run(corpus, tmp_path_factory.mktemp("clean") / "out")


def test_every_document_is_kept_or_rejected_with_a_reason(corpus: Path, cleaned: Output) -> None:
    kept = {document.id: document for document in read_documents(cleaned.path)}
    rejected = {record["id"]: record for record in map(json.loads, (cleaned.path / "rejected.jsonl").read_text().splitlines())}
    reasons = {name: record["rule"] for name, record in rejected.items()}
    assert reasons == {
        "short.txt": "gopher_quality.min_words",
        "binary.dat": "read.binary",
        "records.jsonl#6": "read.bad_line",
        "again.txt": "exact_dedup.max_jaccard",
        "004.txt": "near_dedup.max_jaccard",
        "r0": "exact_dedup.max_jaccard",
    }
    assert rejected["short.txt"]["value"] == 2
    assert rejected["short.txt"]["threshold"] == 50
    assert rejected["short.txt"]["excerpt"] == "Nothing much."
    assert rejected["004.txt"]["kept"] == "nearly.txt"
    assert len(kept) + len((cleaned.path / "rejected.jsonl").read_text().splitlines()) == len(os.listdir(corpus)) + 6
    assert kept["mail.txt"].text.endswith("Write to [EMAIL].")
    assert kept["mail.txt"].meta == {"pii": {"email": 1}}
    assert (kept["module.py"].domain, kept["module.py"].lang) == ("code", "python")
    assert (cleaned.path / "scored").is_dir()


def test_the_funnel_adds_up(cleaned: Output) -> None:
    steps = json.loads((cleaned.path / "funnel.json").read_text())["steps"]
    assert [step["step"] for step in steps][:3] == ["read", "extract", "normalise"]
    for before, after in itertools.pairwise(steps):
        assert before["documents_out"] == after["documents_in"]
        assert before["bytes_out"] == after["bytes_in"]
    for step in steps:
        taken = sum(rule["documents"] for rule in step["rules"].values())
        assert step["documents_in"] - taken == step["documents_out"]
        for name, rule in step["rules"].items():
            assert 1 <= len(rule["samples"]) <= 5
            assert all(sample["rule"] == name for sample in rule["samples"])
    assert cleaned.figures["documents"] == steps[-1]["documents_out"] == len(list(read_documents(cleaned.path)))
    assert cleaned.figures["bytes"] == sum(len(document.text.encode()) for document in read_documents(cleaned.path))


def test_no_path_of_this_machine_gets_into_the_artifact(corpus: Path, cleaned: Output) -> None:
    for name, content in files(cleaned.path).items():
        assert str(corpus.parent).encode() not in content, name


def test_output_does_not_depend_on_workers_or_on_where_chunks_end_up(
    corpus: Path, cleaned: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean, "SERIAL_BYTES", 0)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5000)
    two = run(corpus, tmp_path / "two", "workers=2")
    assert files(two.path) == files(cleaned.path)
    assert two.figures | {"megabytes_per_s": 0} == cleaned.figures | {"megabytes_per_s": 0}


def test_a_killed_stage_goes_on_and_ends_in_the_same_bytes(
    corpus: Path, cleaned: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, sys, pathlib, signal\n"
        "from lianlu.core.store import Output\n"
        "from lianlu.data import clean\nfrom lianlu.data.scores import scored as chunks\n"
        "chunks.CHUNK_BYTES = 5000\nmade = chunks.run_chunk\n"
        "def run_chunk(folder, number, *rest):\n    made(folder, number, *rest)\n"
        "    number == 4 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "chunks.run_chunk = run_chunk\n"
        "clean.run(clean.CleanConfig(source=sys.argv[1], workers=1), Output(pathlib.Path(sys.argv[2])))\n"
    )
    target = tmp_path / "out"
    target.mkdir()
    done = subprocess.run([sys.executable, "-c", program, str(corpus), str(target)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    finished = sorted((target / "scored").glob("*.json"))
    assert len(finished) == 5
    (target / "scored" / "00004.json").write_text("{")
    stamps = {path: path.stat().st_mtime_ns for path in finished[:4]}
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5000)
    remade: list[int] = []
    made = chunks.run_chunk
    monkeypatch.setattr(chunks, "run_chunk", lambda folder, number, *rest: (remade.append(number), made(folder, number, *rest)))
    run(corpus, target)
    assert files(target) == files(cleaned.path)
    assert stamps
    assert min(remade) == 4


def test_workers_end_when_their_parent_is_killed(corpus: Path, tmp_path: Path) -> None:
    program = tmp_path / "main.py"
    program.write_text(
        "import pathlib, sys\nfrom lianlu.core.store import Output\n"
        "from lianlu.data import clean\nfrom lianlu.data.scores import scored as chunks\n"
        "if __name__ == '__main__':\n    clean.SERIAL_BYTES = 0\n    chunks.CHUNK_BYTES = 2000\n"
        "    clean.run(clean.CleanConfig(source=sys.argv[1], workers=2, rules=()), Output(pathlib.Path(sys.argv[2])))\n"
    )
    target = tmp_path / "out"
    parent = subprocess.Popen(
        [sys.executable, str(program), str(corpus), str(target)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    group = os.getpgid(parent.pid)
    for _ in range(600):
        if list((target / "scored").glob("*.json")) or parent.poll() is not None:
            break
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("a worker outlived its parent")


def test_families_languages_and_thresholds_are_chosen(corpus: Path, tmp_path: Path) -> None:
    out = run(corpus, tmp_path / "a", "rules=[]", "domain=book", "name=mine")
    kept = list(read_documents(out.path))
    assert {document.domain for document in kept} == {"book"}
    assert {document.source for document in kept} == {"mine"}
    assert [document.id for document in kept if document.id.startswith("r0")] == ["r0", "r0~2"]
    assert "short.txt" in {document.id for document in kept}
    lenient = run(
        corpus,
        tmp_path / "b",
        "rules=['gopher_quality', 'c4', 'fineweb', 'code']",
        "thresholds.gopher_quality.min_words=2",
        "thresholds.gopher_quality.en.min_stop_words=false",
        "thresholds.c4={min_sentences=1, min_words_per_line=1}",
        "thresholds.fineweb={max_short_lines=1, max_lines_per_word=1}",
    )
    assert "short.txt" in {document.id for document in read_documents(lenient.path)}


def test_nothing_left_says_which_rules_took_how_much(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text("too short")
    (tmp_path / "in" / "x.bin").write_bytes(b"\0\1")
    with pytest.raises(
        DataError, match=r"all 4 documents were rejected \(gopher_quality.min_words took 3, read.binary took 1\)"
    ) as error:
        run(tmp_path / "in", tmp_path / "out")
    assert "rejected.jsonl" in error.value.hint
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 4


def test_only_the_chosen_languages_stay(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "en.txt").write_text(story(1))
    (tmp_path / "in" / "zh.txt").write_text(
        "春天的时候，镇上的图书馆开门了，人们带着孩子来看书。他们在书架之间慢慢走着，问管理员先读哪一本。" * 2
        + "\n她说她也不知道，每个读者都要自己去找一扇门，门后还有别的房间。"
    )
    out = run(tmp_path / "in", tmp_path / "out", "languages=['zh']", "rules=['language']")
    assert json.loads((out.path / "rejected.jsonl").read_text())["rule"] == "language.allowed"


def test_web_pages_become_their_articles(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    page = f"<html><body><nav><a href='/'>Home</a></nav><article><p>{story(1)}</p><p>{story(2)}</p></article></body></html>"
    (tmp_path / "in" / "page.HTML").write_text(page)
    kept = list(read_documents(run(tmp_path / "in", tmp_path / "out", "rules=[]").path))
    assert [(document.id, document.domain) for document in kept] == [("page.HTML", "web")]
    assert "Home" not in kept[0].text
    assert "<" not in kept[0].text


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean min_words"):
        validate(CleanConfig, {"thresholds": {"gopher_quality": {"min_word": 1}}})
    with pytest.raises(ConfigError, match="rules"):
        validate(CleanConfig, {"rules": ["gopher"]})
    assert canonical(CleanConfig(thresholds={"c4": {"min_sentences": 9}}))["thresholds"]["c4"]["min_sentences"] == 9


def test_estimates_do_not_need_the_source(tmp_path: Path, corpus: Path) -> None:
    assert clean.estimate(CleanConfig(source=str(tmp_path / "absent"))).seconds > 0
    assert clean.estimate(CleanConfig(source=str(corpus), workers=1)).seconds < 10


def test_a_document_of_any_text_passes_or_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rng = random.Random(0)
    lines = []
    for _ in range(150):
        text = "".join(
            chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x4E00, 0x9FFF), rng.randrange(1, 0xD7FF), 10]))
            for _ in range(rng.randrange(400))
        )
        lines.append(json.dumps({"text": text}))
    (tmp_path / "in" / "a.jsonl").write_text("\n".join([*lines, json.dumps({"text": story(1)})]))
    out = run(tmp_path / "in", tmp_path / "out")
    total = len(list(read_documents(out.path))) + len((out.path / "rejected.jsonl").read_text().splitlines())
    assert total == 151
    assert all(isinstance(document, Document) for document in read_documents(out.path))


def test_a_moved_threshold_needs_no_new_scores(
    corpus: Path, cleaned: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = (
        "thresholds.gopher_quality.min_words=2",
        "thresholds.gopher_quality.en.min_stop_words=false",
        "thresholds.punctuation={min_marks=0}",
    )
    whole = run(corpus, tmp_path / "whole", *change)
    monkeypatch.setattr(chunks, "run_chunk", lambda *_: pytest.fail("scored again"))
    moved = run(corpus, tmp_path / "moved", f"scores={cleaned.path}", *change)
    assert files(moved.path) == files(whole.path) != files(cleaned.path)
    assert not (moved.path / "scored").exists()


def test_scores_that_do_not_fit_are_made_anew_from_what_was_read(corpus: Path, cleaned: Output, tmp_path: Path) -> None:
    change = "thresholds.c4.min_words_per_line=9"
    again = run(corpus, tmp_path / "again", f"scores={cleaned.path}", change)
    wanted = list(read_documents(run(corpus, tmp_path / "whole", change).path))
    assert list(read_documents(again.path)) == wanted
    with pytest.raises(DataError, match="holds no scores"):
        run(corpus, tmp_path / "none", f"scores={corpus}")


def test_an_artifact_as_source_is_what_it_kept(cleaned: Output, tmp_path: Path) -> None:
    again = run(cleaned.path, tmp_path / "again")
    assert list(read_documents(again.path)) == list(read_documents(cleaned.path))


def test_a_cluster_needs_the_library(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="needs the library ray") as caught:
        run(corpus, tmp_path / "out", "engine.kind=ray")
    assert caught.value.hint == "pip install lianlu[ray]"


def test_where_the_work_is_done_does_not_change_the_key() -> None:
    assert {"engine", "workers"} <= aside_fields(CleanConfig)
