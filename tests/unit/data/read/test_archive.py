from __future__ import annotations

import io
import random
import resource
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from lianlu.data.read import archive
from lianlu.data.read.extract import documents, read
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.raw import Raw
from lianlu.data.read.sources import expand, list_files

MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software. "
    "The above copyright notice and this permission notice shall be included."
)
FILES = {
    "repo-1/src/a.py": "x = 1\n",
    "repo-1/.github/ci.yml": "on: push",
    "repo-1/LICENSE": MIT,
    "repo-1/README.md": "# Ships\n",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pack(path: Path, files: dict[str, str]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.comment = COMMIT.encode()
            for name, text in files.items():
                file.writestr(zipfile.ZipInfo(name, (2024, 3, 1, 12, 0, 0)), text, zipfile.ZIP_DEFLATED)
        return path
    kind = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{kind}", format=tarfile.PAX_FORMAT, pax_headers={"comment": COMMIT}) as file:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(text.encode()), 1709294400
            file.addfile(info, io.BytesIO(text.encode()))
    path.write_bytes(zstandard.compress(packed.getvalue()) if path.suffix == ".zst" else packed.getvalue())
    return path


def members(path: Path, max_bytes: int = 100_000) -> dict[str, Raw]:
    return {raw.id: raw for raw in expand(list_files(path).raws, ("text",), max_bytes)}


def rules(found: dict[str, Raw]) -> dict[str, str]:
    return {name: raw.verdict.rule if raw.verdict else "" for name, raw in found.items()}


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz", "tar.zst", "tar.bz2", "tar.xz"])
def test_a_repository_in_an_archive_knows_its_licence_name_and_paths(tmp_path: Path, suffix: str) -> None:
    name = f"ships.{suffix}"
    found = members(pack(tmp_path / name, FILES))
    assert list(found) == [f"{name}/repo-1/src/a.py", f"{name}/repo-1/LICENSE", f"{name}/repo-1/README.md"]
    raw = found[f"{name}/repo-1/src/a.py"]
    content = read(raw, 1000)
    assert isinstance(content, str)
    (document,) = documents(raw, content, HtmlExtractor(1))
    assert (document.text, document.lang, document.domain) == ("x = 1\n", "python", "code")
    assert (document.path, document.license) == ("src/a.py", "MIT")
    assert document.meta == {"repo": "ships", "commit": COMMIT}
    assert document.date.startswith("2024-03-01T12:00:00")


def test_a_manifest_tells_the_licence_in_an_archive_and_makes_no_repository(tmp_path: Path) -> None:
    files = {"r/a.c": "int a;", "r/lib/b.c": "int b;", "r/lib/package.json": '{"license": "ISC"}', "r/COPYRIGHT": MIT}
    found = members(pack(tmp_path / "ships.tar", files))
    assert found["ships.tar/r/a.c"].license == "MIT"
    assert found["ships.tar/r/lib/b.c"].license == "ISC"
    (raw, _) = members(pack(tmp_path / "notes.zip", {"a.txt": "text", "COPYRIGHT": MIT})).values()
    assert (raw.license, raw.document and raw.document.meta) == ("", {})


def test_files_without_code_are_no_repository(tmp_path: Path) -> None:
    found = members(pack(tmp_path / "notes.zip", {"a.txt": "text", "b/c.md": "# more"}))
    assert [raw.document.meta for raw in found.values() if raw.document] == [{}, {}]


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_names_that_lead_out_links_and_archives_inside_are_rejections(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    files = {
        "../../etc/passwd.txt": "x",
        "/abs.txt": "x",
        "C:\\x.txt": "x",
        "b\\..\\c.txt": "x",
        "in.zip": "x",
        "d.jsonl": "{}",
        "ok.txt": "fine",
    }
    pack(path, files)
    if suffix == "zip":
        with zipfile.ZipFile(path, "a") as file:
            link = zipfile.ZipInfo("link.txt")
            link.external_attr = 0o120777 << 16
            file.writestr(link, "/etc/passwd")
    else:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
            link = tarfile.TarInfo("link.txt")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        path.write_bytes(packed.getvalue())
    found = {name.removeprefix(f"a.{suffix}/"): rule for name, rule in rules(members(path)).items()}
    if suffix == "zip":
        found["C:\\x.txt"] = found.pop("C:\\x.txt", "") or found.pop("C:/x.txt", "")
        found["b\\..\\c.txt"] = found.pop("b\\..\\c.txt", "") or found.pop("b/../c.txt", "")
    unsafe = "read.unsafe_name"
    assert found == {
        "../../etc/passwd.txt": unsafe, "/abs.txt": unsafe, "C:\\x.txt": unsafe, "b\\..\\c.txt": unsafe, "in.zip": "read.nested",
        "d.jsonl": "read.nested", "ok.txt": "", "link.txt": "read.not_a_file",
    }  # fmt: skip


def test_a_truncated_tar_gives_what_is_whole_and_broken_archives_a_reason(tmp_path: Path) -> None:
    files = {f"{number}.txt": random.Random(number).randbytes(10_000).hex() for number in range(5)}
    whole = pack(tmp_path / "a.tar", files).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:70_000])
    assert list(rules(members(tmp_path / "b.tar")).values()) == ["", "", "", "read.damaged"]
    packed = pack(tmp_path / "a.tar.gz", files).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(packed[: len(packed) * 2 // 3])
    found = list(rules(members(tmp_path / "b.tar.gz")).values())
    assert found[-1] == "read.damaged"
    assert found[0] == ""
    (tmp_path / "b.zip").write_bytes(pack(tmp_path / "a.zip", files).read_bytes()[:-80])
    (tmp_path / "c.zip").write_bytes(b"nonsense")
    (tmp_path / "d.tar.xz").write_bytes(b"nonsense")
    for name in ("b.zip", "c.zip", "d.tar.xz"):
        assert list(rules(members(tmp_path / name)).values()) == ["read.damaged"]
    pack(tmp_path / "e.zip", {})
    assert rules(members(tmp_path / "e.zip")) == {"e.zip": "read.empty"}


def test_one_bad_member_of_a_zip_costs_only_itself(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a.txt": "first text " * 50, "b.txt": "second text " * 50})
    content = bytearray(path.read_bytes())
    content[50] ^= 0xFF
    path.write_bytes(content)
    assert rules(members(path)) == {"a.zip/a.txt": "read.damaged", "a.zip/b.txt": ""}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_any_packing_costs_only_itself(tmp_path: Path, method: int) -> None:
    texts = [random.Random(number).randbytes(2000).hex() for number in range(6)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as file:
        for number, text in enumerate(texts):
            file.writestr(f"{number}.txt", text)
        place = file.infolist()[2].header_offset + 40
    whole = (tmp_path / "a.zip").read_bytes()
    for start, end in ((place, place + 12), (place + 12, place + 500), (place + 500, place + 501), (place - 40, place)):
        harmed = whole[:start] + bytes(byte ^ 0x5A for byte in whole[start:end]) + whole[end:]
        (tmp_path / "a.zip").write_bytes(harmed)
        found = rules(members(tmp_path / "a.zip"))
        assert [found.get(f"a.zip/{number}.txt") for number in range(6)] == ["", "", "read.damaged", "", "", ""]


def test_bombs_cost_little_memory_and_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 50_000_000)
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("big.txt", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
        file.writestr("small.txt", "fine")
    liar = bytearray((tmp_path / "big.zip").read_bytes())
    for mark, place in ((b"PK\x01\x02", 24),):
        start = liar.index(mark)
        liar[start + place : start + place + 4] = struct.pack("<I", 10)
    (tmp_path / "liar.zip").write_bytes(liar)
    pack(tmp_path / "many.zip", {f"{number}.txt": "a" * 1_000_000 for number in range(100)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert rules(members(tmp_path / "big.zip")) == {"big.zip/big.txt": "read.max_bytes", "big.zip/small.txt": ""}
    assert rules(members(tmp_path / "liar.zip"))["liar.zip/big.txt"] in ("read.damaged", "read.max_bytes")
    found = rules(members(tmp_path / "many.zip", 2_000_000))
    assert list(found.values()).count("read.damaged") == 1
    assert len(found) < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000


def test_real_pages_come_out_of_their_archive(shared_data: Path) -> None:
    found = members(shared_data / "corpora" / "html_readability.tar.gz", 10**7)
    assert len(found) == 130
    assert set(rules(found).values()) == {""}
