"""The clean stage in one process, in several, and on a cluster: the same bytes, whatever dies on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lianlu
from lianlu.core.config import validate, with_overrides
from lianlu.core.errors import ConfigError
from lianlu.core.files import files_below
from lianlu.core.pool import Lost, in_order
from lianlu.core.ray_pool import cluster
from lianlu.core.store import LOGS, Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.filters.linear_filter import LinearFilter, save
from lianlu.data.filters.ngrams import NgramSettings
from lianlu.data.scores import scored

pytestmark = pytest.mark.e2e
CHUNK_BYTES = 8000
PROGRAM = f"""
import sys
from pathlib import Path
from lianlu.core.config import validate, with_overrides
from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.scores import scored
if __name__ == "__main__":
    clean.SERIAL_BYTES, scored.CHUNK_BYTES = 0, {CHUNK_BYTES}
    config = with_overrides({{"source": sys.argv[1]}}, sys.argv[3:])
    clean.run(validate(clean.CleanConfig, config), Output(Path(sys.argv[2])))
"""


KILLER, SLEEPER = "This text ends its reader.", "This text holds its reader up."
TRAP = f"""
import importlib.abc, importlib.util, os, sys, time

def set_trap(module):
    plain = module.normalise
    def normalise(text):
        if {KILLER!r} in text:
            os.kill(os.getpid(), 11)
        if {SLEEPER!r} in text:
            time.sleep(3600)
        return plain(text)
    module.normalise = normalise

class Trap(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lianlu.data.read.normalise":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), set_trap(module))
        return spec

sys.meta_path.insert(0, Trap())
"""


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every Python process that is started from now on falls for the texts above."""
    folder = tmp_path_factory.mktemp("trap")
    (folder / "sitecustomize.py").write_text(TRAP)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(Path(lianlu.__file__).parent.parent)])
    yield
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def nodes(trapped: None) -> Iterator[Any]:
    """A cluster of two nodes with a processor each; `address` is where it answers."""
    pytest.importorskip("ray", reason="needs the extra ray: pip install lianlu[ray]")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def sentence(rng: random.Random) -> str:
    words = ["".join(rng.choices(["ba", "ko", "li", "mer", "tan", "dor", "sil", "ven"], k=rng.randint(2, 4))) for _ in range(4)]
    frames = (
        "The {} {} with {} to {}.",
        "Of {} and {}, {} have {}.",
        "{} that {} must be {} by the {}.",
        "To {} is to {} {} and {}.",
    )
    return rng.choice(frames).format(*words)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and records, with exact and near copies far apart."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(7)
    made: list[str] = []
    for number in range(160):
        text = "\n".join(" ".join(sentence(rng) for _ in range(3)) for _ in range(5))
        if number % 5 == 4:
            text = made[rng.randrange(len(made))] + (" " + sentence(rng)) * (number % 2)
        made.append(text)
    for number, text in enumerate(made[:80]):
        (folder / f"{number:03d}.txt").write_text(text)
    (folder / "bytes.dat").write_bytes(bytes(99))
    lines = [json.dumps({"id": f"r{number}", "text": text}) for number, text in enumerate(made[80:])]
    (folder / "records.jsonl").write_text("\n".join([*lines, "{", lines[0]]))
    return folder


@pytest.fixture(autouse=True)
def _many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "SERIAL_BYTES", 0)
    monkeypatch.setattr(scored, "CHUNK_BYTES", CHUNK_BYTES)


def run(source: Path, target: Path, *overrides: str) -> dict[str, bytes]:
    """Everything that belongs to the artifact but logs."""
    target.mkdir(exist_ok=True)
    clean.run(validate(CleanConfig, with_overrides({"source": str(source)}, overrides)), Output(target))
    return files(target)


def files(folder: Path) -> dict[str, bytes]:
    paths = (path.relative_to(folder) for path in files_below(folder))
    return {str(path): (folder / path).read_bytes() for path in paths if path.parts[0] != LOGS}


def on_ray(nodes: Any) -> tuple[str, ...]:
    return "engine.kind=ray", f"engine.address={nodes.address}"


@pytest.fixture(scope="module")
def wanted(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "SERIAL_BYTES", 0)
        patch.setattr(scored, "CHUNK_BYTES", CHUNK_BYTES)
        made = run(texts, tmp_path_factory.mktemp("one") / "out", "workers=1")
    assert sum(name.endswith(".documents.parquet") for name in made) > 8
    assert b"near_dedup" in made["rejected.jsonl"]
    assert b"exact_dedup" in made["rejected.jsonl"]
    return made


@pytest.mark.parametrize("workers", [2, 8])
def test_several_processes_give_the_bytes_of_one(wanted: dict[str, bytes], texts: Path, tmp_path: Path, workers: int) -> None:
    assert run(texts, tmp_path / "out", f"workers={workers}") == wanted


def test_two_nodes_give_the_bytes_of_one_process(wanted: dict[str, bytes], texts: Path, tmp_path: Path, nodes: Any) -> None:
    assert run(texts, tmp_path / "out", *on_ray(nodes)) == wanted


def test_both_nodes_work(nodes: Any) -> None:
    where = "__import__('time').sleep(1) or __import__('os').environ['RAY_RAYLET_PID']"
    with cluster(nodes.address) as engine:
        assert len({node for _, node in engine.results(eval, [where] * 8)}) == 2


def test_a_node_may_go_in_the_middle(
    wanted: dict[str, bytes], texts: Path, tmp_path: Path, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = nodes.add_node(num_cpus=1)
    plain = clean.Chunk

    def chunk(folder: Path, number: int) -> Any:
        if number == 3:
            nodes.remove_node(third, allow_graceful=False)
        return plain(folder, number)

    monkeypatch.setattr(clean, "Chunk", chunk)
    assert run(texts, tmp_path / "out", *on_ray(nodes)) == wanted


def test_the_best_fraction_is_the_same_wherever_it_is_taken(texts: Path, tmp_path: Path, nodes: Any) -> None:
    ngrams = NgramSettings((3,), (1,), 12)
    weights = np.random.default_rng(1).integers(-999, 999, 1 << 12).astype(np.int16)
    save(tmp_path / "filter", LinearFilter("quality", ("0", "1"), True, ngrams, weights, 0.01, 0.0))
    asked = f"filters=['{tmp_path / 'filter'}']", "thresholds.filters.top_quality=0.4", "rules=['filters', 'near_dedup']"
    ways = {"1": ("workers=1",), "2": ("workers=2",), "ray": on_ray(nodes)}
    made = {name: run(texts, tmp_path / name, *asked, *more) for name, more in ways.items()}
    assert made["1"] == made["2"] == made["ray"]
    cuts = json.loads(made["1"]["decisions/top.json"])["cuts"]
    assert {cut["domain"]: cut["kept"] / cut["documents"] for cut in cuts} == pytest.approx({"text": 0.4, "web": 0.4}, abs=0.05)
    assert b"filters.top_quality" in made["1"]["rejected.jsonl"]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_killed_run_goes_on(
    wanted: dict[str, bytes], texts: Path, tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    overrides = on_ray(request.getfixturevalue("nodes")) if engine == "ray" else ("workers=2",)
    program, target = tmp_path / "main.py", tmp_path / "out"
    program.write_text(PROGRAM)
    target.mkdir()
    process = subprocess.Popen([sys.executable, program, texts, target, *overrides], stderr=subprocess.DEVNULL)
    while len(list((target / "scored").glob("*.json"))) < 4 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    stamps = {path: path.stat().st_mtime_ns for path in sorted((target / "scored").glob("*.json"))[:3]}
    assert run(texts, target, *overrides) == wanted
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_what_ends_or_holds_up_its_reader_is_rejected_and_nothing_else_is(
    texts: Path, tmp_path: Path, trapped: None, nodes: Any
) -> None:
    source = tmp_path / "texts"
    shutil.copytree(texts, source)
    (source / "012.txt").write_text(KILLER)
    (source / "013.txt").write_text("Only a short text.")
    (source / "040.txt").write_text(SLEEPER)
    with open(source / "records.jsonl", "a") as file:
        file.write("\n" + json.dumps({"id": "deadly", "text": f"A record. {KILLER}"}))
    ways = {"1": ("workers=1",), "2": ("workers=2",), "ray": on_ray(nodes)}
    made = {name: run(source, tmp_path / name, "chunk_limit_s=30", "rules=[]", *more) for name, more in ways.items()}
    assert made["1"] == made["2"] == made["ray"]
    rejected = {record["id"]: record for record in map(json.loads, made["1"]["rejected.jsonl"].splitlines())}
    assert {name: record["rule"] for name, record in rejected.items()} == {
        "012.txt": "read.crashed",
        "040.txt": "read.max_seconds",
        "bytes.dat": "read.binary",
        "deadly": "read.crashed",
        "records.jsonl#81": "read.bad_line",
    }
    assert rejected["deadly"]["excerpt"].startswith("A record.")
    first = next(step for step in json.loads(made["1"]["funnel.json"])["steps"] if step["step"] == "read")
    assert first["documents_in"] == len(os.listdir(source)) - 1 + 83


def test_jobs_that_crash_or_hang_are_lost_and_exceptions_travel(nodes: Any) -> None:
    with cluster(nodes.address) as engine:
        jobs = [signal.SIGCONT, signal.SIGSEGV, signal.SIGCONT]
        assert [result for _, result in engine.results(signal.raise_signal, jobs)] == [None, Lost("died"), None]
        assert list(engine.alone().results(time.sleep, [0, 3600], limit_s=2)) == [(0, None), (3600, Lost("took too long"))]
        with pytest.raises(ValueError, match="invalid literal"):
            list(in_order(int, ["1", "two"], engine, str))


def test_where_nobody_answers_it_is_told() -> None:
    pytest.importorskip("ray", reason="needs the extra ray: pip install lianlu[ray]")
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"), cluster("127.0.0.1:9"):
        pass
