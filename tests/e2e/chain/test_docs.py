"""Every `sh` and `python` block of README and docs is executed, in the order of the page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, Chain

pytestmark = pytest.mark.e2e
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_blocks_run(page: Path, chain: Chain) -> None:
    environment = chain.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for language, code in blocks(page):
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"


def test_both_readmes_show_the_same_commands() -> None:
    english, chinese = (re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S) for page in PAGES[:2])
    assert [re.sub(r"#.*", "", block) for block in english] == [re.sub(r"#.*", "", block) for block in chinese]
