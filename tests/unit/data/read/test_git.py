from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lianlu.core.errors import MissingExtraError
from lianlu.data.read import git
from lianlu.data.read.extract import documents, read
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files
from lianlu.formats.documents import Document

MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy. "
    "The above copyright notice and this permission notice shall be included."
)
UNLICENSE = "This is free and unencumbered software released into the public domain."


def run(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@e.org", "-c", "init.defaultBranch=main"]
    environment = {**os.environ, "GIT_COMMITTER_DATE": "2024-03-01T12:00:00+0100", "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z"}
    made = subprocess.run(["git", *who, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return made.stdout.strip()


@pytest.fixture
def ships(tmp_path: Path) -> Path:
    folder = tmp_path / "repos" / "ships"
    (folder / "vendor" / "knots").mkdir(parents=True)
    (folder / "LICENSE").write_text(MIT)
    (folder / "ferry.py").write_text("speed = 12\n")
    (folder / "中文 name.md").write_text("# 渡船\n")
    (folder / "vendor" / "knots" / "UNLICENSE").write_text(UNLICENSE)
    (folder / "vendor" / "knots" / "knot.c").write_text("int knots;\n")
    (folder / "link.py").symlink_to("/etc/passwd")
    (folder / "huge.txt").write_text("x" * 3000)
    (folder / ".hidden").write_text("x")
    (folder / "records.jsonl").write_text("{}")
    run(folder, "init")
    run(folder, "remote", "add", "origin", "https://me:secret@example.org/sea/ships.git")
    run(folder, "add", ".")
    run(folder, "commit", "-m", "all")
    (folder / "later.py").write_text("uncommitted = True\n")
    return folder


def made(source: Path) -> tuple[dict[str, Document], dict[str, str]]:
    kept, rejected = {}, {}
    for raw in expand(list_files(source).raws, ("text",), 2000):
        content = read(raw, 2000)
        if isinstance(content, str):
            found = documents(raw, content, HtmlExtractor(1))
            assert isinstance(found, list)
            kept[raw.id] = found[0]
        elif not isinstance(content, bytes):
            rejected[raw.id] = content.rule
    return kept, rejected


def test_a_git_folder_and_a_bare_repository_are_read_at_head(ships: Path) -> None:
    bare = ships.parent / "fleet.git"
    run(ships.parent, "clone", "--bare", str(ships), str(bare))
    commit = run(ships, "rev-parse", "HEAD")
    for source, prefix, name, url in (
        (ships / ".git", "ships", "ships", "https://example.org/sea/ships"),
        (bare, "fleet", "fleet", ""),
    ):
        kept, rejected = made(source)
        assert set(kept) == {
            f"{prefix}/{path}"
            for path in ("LICENSE", "ferry.py", "中文 name.md", "vendor/knots/UNLICENSE", "vendor/knots/knot.c")
        }
        assert rejected == {
            f"{prefix}/huge.txt": "read.max_bytes", f"{prefix}/link.py": "read.not_a_file",
            f"{prefix}/records.jsonl": "read.nested",
        }  # fmt: skip
        meta = {"repo": name, "commit": commit}
        assert kept[f"{prefix}/ferry.py"] == Document(
            f"{prefix}/ferry.py", "speed = 12\n", domain="code", lang="python", url=url, license="MIT",
            date="2024-03-01T11:00:00+00:00", path="ferry.py", meta=meta,
        )  # fmt: skip
        assert kept[f"{prefix}/vendor/knots/knot.c"].license == "Unlicense"


def test_a_folder_with_git_in_it_is_read_as_it_lies_there(ships: Path) -> None:
    run(ships.parent, "clone", "--bare", str(ships), "bare.git")
    kept, _ = made(ships.parent)
    assert kept["ships/later.py"].meta == {"repo": "ships"}
    assert kept["ships/later.py"].path == "later.py"
    assert kept["ships/later.py"].license == "MIT"
    assert kept["ships/vendor/knots/knot.c"].license == "Unlicense"
    assert kept["bare.git/ferry.py"].meta["repo"] == "bare"


def test_a_manifest_tells_the_licence_where_no_licence_file_does(ships: Path) -> None:
    for folder, name, text in (
        ("web", "package.json", '{"license": "ISC"}'),
        ("vendor/knots", "Cargo.toml", '[package]\nlicense = "GPL-3.0"'),
        ("lib", "package.json", '{"name": "lib"}'),
    ):
        (ships / folder).mkdir(exist_ok=True)
        (ships / folder / name).write_text(text)
        (ships / folder / "a.c").write_text("int a;\n")
    os.mkfifo(ships / "COPYING")
    run(ships, "add", "web", "vendor", "lib")
    run(ships, "commit", "-m", "more")
    for source, prefix in ((ships, ""), (ships / ".git", "ships/")):
        kept, _ = made(source)
        found = {folder: kept[f"{prefix}{folder}/a.c"].license for folder in ("web", "vendor/knots", "lib")}
        assert found == {"web": "ISC", "vendor/knots": "Unlicense", "lib": "MIT"}
    shutil.rmtree(ships / ".git")
    (ships / "LICENSE").unlink()
    kept, _ = made(ships / "web")
    assert kept["a.c"].meta == {}


def test_a_repository_without_commits_or_with_lost_objects_is_a_rejection(tmp_path: Path, ships: Path) -> None:
    empty = tmp_path / "empty.git"
    run(tmp_path, "init", "--bare", str(empty))
    _, rejected = made(empty)
    assert rejected == {"empty": "read.damaged"}
    lost = run(ships, "rev-parse", "HEAD:ferry.py")
    (ships / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    kept, rejected = made(ships / ".git")
    assert rejected["ships/ferry.py"] == "read.damaged"
    assert "ships/LICENSE" in kept


def test_a_damaged_object_costs_only_its_file(ships: Path) -> None:
    objects = ships / ".git" / "objects"
    lost = run(ships, "rev-parse", "HEAD:ferry.py")
    loose = objects / lost[:2] / lost[2:]
    loose.chmod(0o644)
    whole = loose.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 2):
        loose.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        kept, rejected = made(ships / ".git")
        assert rejected["ships/ferry.py"] == "read.damaged"
        assert rejected["ships/huge.txt"] == "read.max_bytes"
        assert {"ships/vendor/knots/knot.c", "ships/LICENSE", "ships/中文 name.md"} <= set(kept)
        assert kept["ships/vendor/knots/knot.c"].license == "Unlicense"


def test_a_pointer_to_a_large_file_is_no_text(ships: Path) -> None:
    (ships / "large.txt").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n")
    run(ships, "add", ".")
    run(ships, "commit", "-m", "pointer")
    assert made(ships / ".git")[1]["ships/large.txt"] == made(ships)[1]["large.txt"] == "read.lfs_pointer"


def test_settings_of_a_repository_run_no_programs(ships: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "gpg.program", "core.sshCommand", "diff.external", "core.editor"):
        run(ships, "config", key, str(trap))
    run(ships, "config", "log.showSignature", "true")
    (ships / ".git" / "hooks" / "post-checkout").write_text(trap.read_text())
    kept, _ = made(ships / ".git")
    assert len(kept) == 5
    assert not (tmp_path / "sprung").exists()


def test_addresses_lose_passwords_and_places_on_this_machine(ships: Path) -> None:
    for stated, address in (
        ("git@example.org:a/b.git", "https://example.org/a/b"),
        ("ssh://git@example.org:22/a/b", "https://example.org/a/b"),
        ("/home/me/b", ""),
        ("file:///home/me/b", ""),
    ):
        run(ships, "remote", "set-url", "origin", stated)
        assert git._address(ships / ".git") == address


def test_without_git_it_says_what_to_install(ships: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    raw: Raw = next(iter(list_files(ships / ".git").raws))
    with pytest.raises(MissingExtraError, match="needs the program git"):
        list(expand([raw], ("text",), 2000))
