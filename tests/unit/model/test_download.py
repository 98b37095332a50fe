"""Streaming with resume: what is on disk is kept, what is missing is fetched, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from lianlu.core.errors import ArtifactError
from lianlu.model import download

CONTENT = os.urandom(300_000)


def test_fetches_a_file_whole(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    download.stream(server.url + "/x.bin", tmp_path / "deep" / "x.bin", "x")
    assert (tmp_path / "deep" / "x.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.bin"]


def test_goes_on_after_the_line_broke(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    server.cuts["/x.bin"] = [100_000, 50_000]
    download.stream(server.url + "/x.bin", tmp_path / "x.bin", "x")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    starts = [int(wanted[6:-1]) if wanted else 0 for _, wanted in server.requests]
    assert starts == [0, 100_000, 150_000]


def test_goes_on_where_an_earlier_process_stopped(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:123_456])
    download.stream(server.url + "/x.bin", tmp_path / "x.bin", "x")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert server.requests == [("/x.bin", "bytes=123456-")]


def test_a_part_that_is_complete_needs_no_bytes(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    download.stream(server.url + "/x.bin", tmp_path / "x.bin", "x")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    (tmp_path / "x.bin.part").write_bytes(CONTENT + b"more")
    download.stream(server.url + "/x.bin", tmp_path / "x.bin", "x")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_starts_over_where_the_server_knows_no_ranges(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    server.knows_ranges = False
    (tmp_path / "x.bin.part").write_bytes(b"other bytes")
    download.stream(server.url + "/x.bin", tmp_path / "x.bin", "x")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_refusal_is_raised_at_once(server, tmp_path: Path) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        download.stream(server.url + "/missing.bin", tmp_path / "x.bin", "x")
    assert len(server.requests) == 1
    assert not (tmp_path / "x.bin").exists()


def test_a_dead_line_is_raised_and_the_part_kept(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    server.cuts["/x.bin"] = [1000] + [0] * 20
    with pytest.raises(httpx.TransportError):
        download.stream(server.url + "/x.bin", tmp_path / "x.bin", "x")
    assert (tmp_path / "x.bin.part").read_bytes() == CONTENT[:1000]


def test_a_full_disk_is_an_error_with_a_hint(server, tmp_path: Path) -> None:
    server.files["/x.bin"] = CONTENT
    (tmp_path / "x.bin.part").symlink_to("/dev/full")
    with pytest.raises(ArtifactError, match="No space") as caught:
        download.stream(server.url + "/x.bin", tmp_path / "x.bin", "x")
    assert "disk is full" in caught.value.hint


def test_watch_returns_and_raises_what_the_job_does(tmp_path: Path) -> None:
    def write() -> int:
        (tmp_path / "a").write_bytes(b"x" * 1000)
        return 7

    assert download.watch("job", tmp_path, 1000, write) == 7
    with pytest.raises(ZeroDivisionError):
        download.watch("job", tmp_path, 0, lambda: 1 // 0)
