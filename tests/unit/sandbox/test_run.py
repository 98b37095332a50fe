from __future__ import annotations

import concurrent.futures
import os
import sys
from pathlib import Path

import pytest

from lianlu.core.errors import DataError, MissingExtraError
from lianlu.sandbox import command, run
from lianlu.sandbox.run import Limits, Result, check, run_python

needs_sandbox = pytest.mark.skipif(check() is not None, reason=f"needs a sandbox: {check()}")


@needs_sandbox
def test_output_and_exit_codes() -> None:
    assert run_python("import sys\nprint('out')\nprint('err', file=sys.stderr)") == Result("out\n", "err\n", 0)
    assert run_python("import sys; sys.exit(3)").exit_code == 3
    assert run_python("import os; os.abort()").exit_code == -6
    assert run_python("").ok
    failed = run_python("def f():\n    raise ValueError('no')\nf()")
    assert (failed.exit_code, failed.ok, failed.killed_by) == (1, False, "")
    assert failed.stderr.splitlines()[:4] == [
        "Traceback (most recent call last):",
        '  File "<code>", line 3, in <module>',
        "    f()",
        '  File "<code>", line 2, in f',
    ]


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "output"),
    [("1 + 1", "2\n"), ("x = 1", ""), ("None", ""), ("1\n'a'", "'a'\n"), ("for i in range(2):\n    i", ""), ("", "")],
)
def test_the_last_expression_can_be_shown(code: str, output: str) -> None:
    assert run_python(code, show_last=True).stdout == output
    assert run_python(code).stdout == ""


@needs_sandbox
@pytest.mark.parametrize("code", ["1 +", "\0", "\ud800", "x = '\ud800'; print(x)", "(" * 5000, "1" * 5000, "\tx\n  y"])
def test_code_that_cannot_be_read_is_the_codes_own_failure(code: str) -> None:
    result = run_python(code)
    assert result.exit_code == 1
    assert "Error" in result.stderr


@needs_sandbox
def test_code_is_an_ordinary_main_module() -> None:
    code = "import sys, dataclasses, pickle\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    code += "print(__name__, pickle.loads(pickle.dumps(A(3))).x, sys.argv, A.__annotations__, sys.stdin.read() == '')"
    assert run_python(code).stdout == "__main__ 3 ['<code>'] {'x': <class 'int'>} True\n"
    assert run_python("print({'a', 'b', 'c', 'd'})").stdout == run_python("print({'a', 'b', 'c', 'd'})").stdout


@needs_sandbox
def test_only_the_standard_library() -> None:
    assert "ModuleNotFoundError" in run_python("import pydantic").stderr


@needs_sandbox
def test_files() -> None:
    result = run_python("import m\nprint(m.x, open('a/b.txt').read())", files={"m.py": "x = 1", "a/b.txt": "r\r\n"})
    assert result.stdout == "1 r\n\n"
    for name in ("", ".", "/etc/x", "../x", "a/../../x", "a\0b"):
        with pytest.raises(DataError, match="no file name"):
            run_python("", files={name: ""})
    with pytest.raises(DataError, match="the sandbox allows 65536"):
        run_python("", Limits(file_bytes=1 << 16), files={"a": "x" * 70_000})


@needs_sandbox
def test_bytes_that_are_no_text() -> None:
    assert run_python("import os; os.write(1, b'a\\xff\\x00')").stdout == "a\ufffd\0"


@needs_sandbox
def test_runs_side_by_side_and_no_descriptor_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: run_python(f"print({number})").stdout, range(8)))
    assert results == [f"{number}\n" for number in range(8)]
    assert sorted(os.listdir("/proc/self/fd")) == before


@needs_sandbox
def test_an_interruption_ends_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.Watch, "memory_used", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_python("import time\ntime.sleep(60)")


def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="not installed") as caught:
        run_python(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "apt-get install bubblewrap" in caught.value.hint
    assert "bubblewrap" in (check() or "")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
@pytest.mark.parametrize(
    ("script", "said", "hint"),
    [
        ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", "uid map", "apparmor"),
        ("echo 'bwrap: Unknown option --disable-userns' >&2; exit 1", "Unknown option", "0.8"),
        ("exit 0", "no reason", "doctor"),
        # One that builds no walls: the part inside notices that its rights are left.
        ('while [ "$1" != "--" ]; do shift; done; shift; exec "$@"', "PermissionError|rights|Error", "doctor"),
    ],
)
def test_a_bubblewrap_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str, hint: str) -> None:
    fake = tmp_path / "bin" / "bwrap"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(run, "_first_pid", lambda info, deadline: 1)
    with pytest.raises(MissingExtraError, match=said) as caught:
        run_python(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert hint in caught.value.hint
    assert not (tmp_path / "ran").exists()


def test_other_systems_have_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.seccomp.platform, "machine", lambda: "riscv64")
    assert "no sandbox" in (check() or "")


@pytest.mark.parametrize("prefix", ["/", "/root", "/home", "HOME"])
def test_an_interpreter_that_would_show_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "base_prefix", prefix.replace("HOME", str(tmp_path)))
    with pytest.raises(MissingExtraError, match="home below it"):
        command.interpreter()


@pytest.mark.parametrize(
    ("uid_map", "expected"),
    [
        ("0 0 4294967295", range(0x7A000000, 0x7A100000)),
        ("0 100000 65536", [65534]),
        ("0 1000 1", [None]),
        ("0 1000 1\n1 100000 65535", [65534]),
    ],
)
def test_whom_root_becomes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid_map: str, expected: list[int | None]) -> None:
    (tmp_path / "uid_map").write_text(uid_map + "\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command.spare_uid(tmp_path / "uid_map") in expected
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.spare_uid(tmp_path / "uid_map") is None
