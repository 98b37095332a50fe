"""The tiny recipe made tinier, run once for all tests of the chain in a store of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "recipes" / "tiny.toml"
TASKS = (
    '[{kind="docstrings", limit=3}, {kind="arithmetic", limit=2, tool=true, max_tokens=24}, '
    '{kind="needle", lengths=[64], depths=[50]}]'
)
SMALL = [
    "steps.tokenizer.vocab_size=700",
    "steps.pretrain.steps=12",
    "steps.pretrain.batch_tokens=512",
    "steps.pretrain.sequence_length=128",
    "steps.pretrain.held_out_tokens=8000",
    "steps.shard.held_out=0.2",
    "steps.pretrain.ngram_bytes=200_000",
    "steps.pretrain.sample_tokens=8",
    "steps.pretrain.checkpoint.seconds=0.5",
    "steps.pretrain.model.hidden_size=64",
    "steps.pretrain.model.intermediate_size=128",
    "steps.pretrain.model.num_hidden_layers=2",
    "steps.chat-data.num_train=8",
    "steps.chat-data.num_held_out=4",
    "steps.chat-data.num_tool_train=4",
    "steps.chat-data.num_tool_held_out=2",
    "steps.chat-data.num_plain_train=2",
    "steps.chat-data.num_plain_held_out=2",
    "steps.sft.steps=3",
    "steps.sft.batch_tokens=256",
    "steps.sft.checkpoint.seconds=0.5",
    "steps.sft.held_out_tokens=300",
    f"steps.eval-base.tasks={TASKS}",
    f"steps.eval-tuned.tasks={TASKS}",
    f"steps.eval-int8.tasks={TASKS}",
    'steps.agent.questions=["Say hello."]',
    'steps.agent.tasks=["What is 2 + 2?"]',
    "steps.agent.max_tokens=24",
]


@dataclass(frozen=True)
class Chain:
    """A store, a folder of text, and the command line over them."""

    home: Path
    source: Path
    here: Path

    @property
    def words(self) -> list[str]:
        return [str(RECIPE), f"steps.clean.source={self.source}", *SMALL]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "lianlu", *words]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LIANLU_HOME": str(self.home), "COLUMNS": "250"}

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `lianlu` with these words to its end."""
        environment = self.environment()
        return subprocess.run(self.command(*words), cwd=self.here, env=environment, capture_output=True, text=True, check=False)

    def states(self, *overrides: str) -> dict[str, str]:
        """What `lianlu plan` says of each step."""
        done = self.call("plan", *self.words, *overrides)
        assert done.returncode == 0, done.stderr
        return dict(re.findall(r"^(\S+) +\S+ +(run|reuse|continue)\b", done.stdout, re.MULTILINE))

    def digests(self) -> dict[str, str]:
        """Digest of every step's current artifact."""
        from lianlu.core.store import Store

        store = Store(self.home)
        return {step: store.get("@" + step).manifest.digest for step in store.names()}


def make_chain(folder: Path) -> Chain:
    """A store and a folder of the standard library's text and of other formats, below `folder`."""
    source, here = folder / "source", folder / "here"
    source.mkdir()
    here.mkdir()
    for package in ("json", "email", "logging", "unittest"):
        origin = Path(sys.modules["os"].__file__ or "").parent / package
        shutil.copytree(origin, source / package, ignore=shutil.ignore_patterns("__pycache__", "test*"))
    shutil.copy(ROOT / "docs" / "tour.md", source / "tour.md")
    (source / "page.html").write_text(
        "<html><body><article><p>" + "A page about nothing in particular. " * 40 + "</p></article></body></html>"
    )
    (source / "rows.jsonl").write_text('{"text": "too short"}\nnot json\n')
    (source / "empty.txt").write_text("")
    (source / "noise.bin").write_bytes(bytes(range(256)) * 8)
    return Chain(folder / "store", source, here)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Chain:
    """The chain after one complete run."""
    made = make_chain(tmp_path_factory.mktemp("chain"))
    done = made.call("run", *made.words)
    assert done.returncode == 0, done.stdout + done.stderr
    return made
