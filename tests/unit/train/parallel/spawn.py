"""Cases that need several processes: functions `case_...` of some files, run one after another by each of a few processes.

As a script (`python spawn.py FOLDER SIZE FILE...`) it imports what all need and forks into the processes, so that importing
costs once. Each joins the others over gloo and a file store, runs every case of the files with a `World`, and writes what became
of them to FOLDER/RANK.json. `run_cases` starts the script and reads that. A case that fails on one process leaves the others
waiting, so the first failure ends the run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType

# far above what any file of cases needs: a busy machine is no failure, a deadlock is
TIMEOUT_S = 240


@dataclass(frozen=True)
class World:
    """What a case knows: the process it runs in, how many there are, and a folder that all of them share."""

    rank: int
    size: int
    folder: Path

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within it this process counts as the only one, so that a case can make what it compares with."""
        os.environ["WORLD_SIZE"] = "1"
        try:
            yield
        finally:
            os.environ["WORLD_SIZE"] = str(self.size)


def case_names(files: Sequence[Path]) -> list[str]:
    """Names of all cases in some files, without importing them: `file.case_name`."""
    found = [(file.stem, re.findall(r"^def (case_\w+)", file.read_text(), re.MULTILINE)) for file in files]
    return [f"{stem}.{name}" for stem, names in found for name in names]


def run_cases(files: Sequence[Path], size: int, folder: Path) -> dict[str, str]:
    """What became of every case: empty if it passed on all processes, else what went wrong and where."""
    command = [sys.executable, __file__, str(folder), str(size), *map(str, files)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # a group of processes of its own, so that all of them can be ended
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        said = started.communicate(timeout=TIMEOUT_S)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        said = started.communicate()[0].decode(errors="replace") + f"\nkilled after {TIMEOUT_S} s"
    results = dict.fromkeys(case_names(files), "")
    for rank in range(size):
        path = folder / f"{rank}.json"
        own_results = json.loads(path.read_text()) if path.exists() else {}
        for name in results:
            wrong = own_results.get(name, f"not run; the processes said: {said[-2000:]}")
            results[name] += f"\nrank {rank}: {wrong}" if wrong else ""
    return results


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def main(folder: Path, size: int, files: Sequence[Path]) -> None:
    """Import, fork, and wait for all."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    modules = {file.stem: _load(file) for file in files}
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = run(World(rank, size, folder), modules, case_names(files))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def run(world: World, modules: dict[str, ModuleType], names: Sequence[str]) -> int:
    """One of the processes; returns its exit code."""
    import torch.distributed as dist

    places = {"RANK": world.rank, "LOCAL_RANK": world.rank, "WORLD_SIZE": world.size, "LOCAL_WORLD_SIZE": world.size}
    os.environ.update({name: str(value) for name, value in places.items()})
    store, timeout = dist.FileStore(str(world.folder / "store"), world.size), timedelta(seconds=TIMEOUT_S / 3)
    dist.init_process_group("gloo", store=store, rank=world.rank, world_size=world.size, timeout=timeout)
    results: dict[str, str] = {}
    for name in names:
        stem, _, case = name.partition(".")
        try:
            getattr(modules[stem], case)(world)
            results[name] = ""
        except BaseException:
            results[name] = traceback.format_exc()
        (world.folder / f"{world.rank}.json").write_text(json.dumps(results))
        if results[name]:
            return 1
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
