from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lianlu.cli.main import call
from lianlu.cli.stage_verbs import SUMMARIES
from lianlu.core.files import write_text
from lianlu.core.store import InputRecord, Output, Store
from lianlu.data.filters.count_model import CountModel
from lianlu.stages import STAGES

Captured = pytest.CaptureFixture[str]


def fill(store: Store, artifact_id: str, text: str, parent: str = "") -> None:
    out = Output(store.work(artifact_id))
    write_text(out.path / "data.txt", text)
    out.figures["length"] = len(text)
    inputs = []
    if parent:
        inputs = [InputRecord(field="data", written="@raw", digest=store.get(parent).manifest.digest, artifact=parent)]
    step = artifact_id.partition("-")[0]
    fields = {
        "id": artifact_id, "kind": "documents", "stage": step, "stage_version": 1, "step": step, "key": artifact_id,
        "config": {"n": len(text)}, "inputs": inputs, "lianlu": "0", "git": "", "device": "cpu", "seconds": 1.0,
        "started": f"2026-01-0{len(store.list()) + 1}T00:00:00.000Z", "peak_memory_bytes": 1,
    }  # fmt: skip
    store.publish(out, fields)
    store.set_name(step, artifact_id)


@pytest.fixture
def store(home: Path) -> Store:
    store = Store(home)
    fill(store, "raw-111", "hello")
    fill(store, "clean-222", "hell", parent="raw-111")
    fill(store, "clean-333", "hel", parent="raw-111")
    return store


def test_help_lists_every_verb_under_a_heading(capsys: Captured) -> None:
    assert call(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("chain:", "stages:", "live:", "lineage:", "care:", *SUMMARIES, "run", "plan", "serve", "chat", "doctor"):
        assert word in text


def test_help_does_not_load_heavy_libraries() -> None:
    code = (
        "import sys; from lianlu.cli.main import call; call(['--help']);"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'pyarrow', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_stage_verb_shows_its_fields_without_torch(name: str) -> None:
    code = f"import sys; from lianlu.cli.main import call; assert call([{name!r}, '--help']) == 0; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert f"Usage: lianlu {name}" in done.stdout
    assert set(SUMMARIES) | {"agent"} == set(STAGES)


def test_every_stage_has_run_and_estimate() -> None:
    for stage in STAGES.values():
        assert callable(stage.function("run"))
        assert callable(stage.function("estimate"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "gone.toml"], "there is no file gone.toml"),
        (["show", "@nope"], "there is no artifact @nope"),
        (["pretrain", "dat=x"], "did you mean data"),
        (["clean", "source=/no/such/folder"], "/no/such/folder"),
        (["chat", "no-such-model"], "no-such-model"),
    ],
)
def test_user_mistakes_end_with_code_2_and_a_hint(home: Path, capsys: Captured, words: list[str], message: str) -> None:
    assert call(words) == 2
    text = capsys.readouterr().err
    assert message in text
    assert "hint:" in text
    assert "Traceback" not in text


def test_outside_a_recipe_an_input_may_name_what_is_in_the_store(home: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    text = " ".join(f"the {word} is in this house for {number} days" for number in range(40) for word in ("cat", "dog", "tree"))
    (tmp_path / "notes" / "a.txt").write_text(text)
    assert call(["clean", f"source={tmp_path / 'notes'}", "rules=[]"]) == 0
    assert call(["tokenizer", "data=@clean", "vocab_size=512"]) == 0
    assert call(["tokenizer", 'data=["@clean", "@clean"]', "vocab_size=520"]) == 0
    store = Store(home)
    assert {record.artifact for record in store.get("@tokenizer").manifest.inputs} == {store.get("@clean").id}
    assert call(["tokenizer", "data=@nothing"]) == 2


def test_unknown_verb_and_missing_argument_end_with_code_2(capsys: Captured) -> None:
    assert call(["frobnicate"]) == 2
    assert call(["run"]) == 2


def test_our_own_faults_end_with_code_1(home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Store, "locate", broken)
    assert call(["ls"]) == 1
    assert "fault of lianlu" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        call(["ls"], debug=True)


def test_interrupt_ends_with_code_130(home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "locate", interrupted)
    assert call(["ls"]) == 130
    assert "continues where it was" in capsys.readouterr().err


def test_ls_marks_what_is_current(store: Store, capsys: Captured) -> None:
    assert call(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["*raw", "clean", "*clean"]


def test_show_prints_the_manifest_and_verifies(store: Store, capsys: Captured) -> None:
    assert call(["show", "@clean", "--verify"]) == 0
    text = capsys.readouterr().out
    assert "clean-333" in text
    assert "@raw" in text
    assert "recorded hash" in text
    (store.get("@clean").path / "data.txt").write_text("hex")
    assert call(["show", "@clean", "--verify"]) == 2


def test_trace_walks_both_ways_and_draws(store: Store, capsys: Captured, tmp_path: Path) -> None:
    assert call(["trace", "@raw", "--svg", str(tmp_path / "lineage.svg")]) == 0
    text = capsys.readouterr().out
    assert "clean-222" in text
    assert "clean-333" in text
    svg = (tmp_path / "lineage.svg").read_text()
    assert svg.startswith("<svg")
    assert svg.count("<rect") == 3
    assert svg.count('class="edge"') == 2


def test_diff_says_what_differs(store: Store, capsys: Captured) -> None:
    assert call(["diff", "clean-222", "clean-333"]) == 0
    text = capsys.readouterr().out
    assert "config.n" in text
    assert "file.data.txt" in text
    assert "input" not in text.replace("inputs", "")


def test_gc_lists_first_and_deletes_when_told(store: Store, capsys: Captured) -> None:
    assert call(["gc"]) == 0
    assert store.find("clean-222") is not None
    assert call(["gc", "--yes"]) == 0
    assert store.find("clean-222") is None
    assert store.find("clean-333") is not None
    assert store.find("raw-111") is not None


def test_gc_removes_damage(store: Store, capsys: Captured) -> None:
    (store.get("raw-111").path / "manifest.json").write_text("{")
    assert call(["gc", "--damaged"]) == 0
    assert not (store.root / "artifacts" / "raw-111").exists()
    assert store.find("clean-222") is not None


def test_counts_are_trained_from_a_folder_and_judge_texts(tmp_path: Path, capsys: Captured) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for number in range(3):
        (good / f"{number}.md").write_text(f"The harbour was quiet on day {number}, and the boats lay still.\n" * 5)
    (good / "empty.txt").write_text("")
    assert call(["data", "train-counts", str(good), "--out", str(tmp_path / "counts.npz")]) == 0
    assert "of 3 texts" in capsys.readouterr().out
    model = CountModel.load(tmp_path / "counts.npz")
    assert model.bits_per_byte("The boats lay still in the harbour.") < model.bits_per_byte("QX#7 zzkv @@!! 0x9f")
