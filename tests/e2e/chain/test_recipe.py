"""The recipe run, run again, changed, and killed."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from lianlu.core.store import Store, damaged_files

from .conftest import Chain, make_chain

pytestmark = pytest.mark.e2e


def test_every_step_is_made_and_the_report_written(chain: Chain) -> None:
    page = (chain.here / "report.html").read_text()
    for anchor in ("lineage", "data", "training", "scores", "quality", "agent"):
        assert f'id="{anchor}"' in page
    store = Store(chain.home)
    assert len(store.list()) == len(chain.digests()) == 13
    assert [damaged_files(artifact) for artifact in store.list()] == [[]] * 13


def test_nothing_of_the_users_folder_vanishes(chain: Chain) -> None:
    folder = Store(chain.home).get("@clean").path
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    paths = " ".join(row["path"] for row in rejected)
    for name in ("rows.jsonl", "empty.txt", "noise.bin"):
        assert name in paths


def test_training_learned_something(chain: Chain) -> None:
    store = Store(chain.home)
    rows = [json.loads(line) for line in (store.get("@pretrain").path / "losses.jsonl").read_text().splitlines()]
    bits = [row["held_out_bpb"] for row in rows if row.get("held_out_bpb")]
    assert bits[-1] < bits[0]


def test_second_run_does_nothing_but_say_so(chain: Chain) -> None:
    before = chain.digests()
    done = chain.call("run", *chain.words)
    assert done.returncode == 0
    assert "nothing to do: all 13 steps are there" in done.stderr
    assert chain.digests() == before


def test_one_field_changes_that_step_and_what_depends_on_it(chain: Chain) -> None:
    assert set(chain.states().values()) == {"reuse"}
    changed = chain.states("steps.merge.adapter=@sft", "steps.sft.seed=9")
    wanted = {"sft", "merge", "quantize", "eval-tuned", "eval-int8", "compare", "agent"}
    assert {step for step, state in changed.items() if state == "run"} == wanted
    changed = chain.states("steps.pretrain.optim.lr=3e-3")
    assert {step for step, state in changed.items() if state == "run"} == {"pretrain"}


def test_a_changed_agent_reruns_alone(chain: Chain) -> None:
    before = {artifact.id for artifact in Store(chain.home).list()}
    done = chain.call("run", *chain.words, 'steps.agent.tasks=["What is 3 + 3?"]')
    assert done.returncode == 0, done.stderr
    assert "1 of 13 steps made" in done.stderr
    assert len({artifact.id for artifact in Store(chain.home).list()} - before) == 1
    assert chain.call("run", *chain.words).returncode == 0


def test_killed_anywhere_it_ends_in_the_same_digests(chain: Chain, tmp_path: Path) -> None:
    other = make_chain(tmp_path)
    chance = random.Random(7)
    for _ in range(6):
        with subprocess.Popen(
            other.command("run", *other.words),
            cwd=other.here,
            env=other.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(chance.uniform(2, 14))
            process.kill()
    done = other.call("run", *other.words)
    assert done.returncode == 0, done.stderr
    assert other.digests() == chain.digests()


def test_two_runs_in_one_store_do_no_harm(chain: Chain, tmp_path: Path) -> None:
    other = make_chain(tmp_path)
    words = other.command("run", *other.words, "--only", "pretrain")
    runs = [
        subprocess.Popen(
            words, cwd=other.here, env=other.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    results = [(*run.communicate(), run.returncode) for run in runs]
    assert [code for _, _, code in results] == [0, 0], results
    mine = other.digests()
    assert len(mine) == 4
    assert mine == {step: chain.digests()[step] for step in mine}


def test_a_full_disk_is_said_and_nothing_is_lost(chain: Chain, tmp_path: Path) -> None:
    other = make_chain(tmp_path)
    script = (
        "import errno, os, lianlu.core.files as files\n"
        "def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "files.os.fsync = full\n"
        "from lianlu.cli.main import main; main()"
    )
    command = [other.command()[0], "-c", script, "run", *other.words, "--only", "clean"]
    done = subprocess.run(command, cwd=other.here, env=other.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert "free some space" in done.stderr
    done = other.call("run", *other.words, "--only", "clean")
    assert done.returncode == 0, done.stderr
    assert other.digests()["clean"] == chain.digests()["clean"]
