"""Files of a process that was killed while it wrote them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lianlu.core.files import remove_leftovers

pytestmark = pytest.mark.e2e
PROGRAM = """
import sys, time
from pathlib import Path
from lianlu.core.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_a_file_is_left_alone_until_its_writer_is_dead(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "a.bin")], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        remove_leftovers(tmp_path)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"half"]
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert list(tmp_path.iterdir()) != []
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
