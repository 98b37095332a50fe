from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lianlu.data.read import child
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.rules.thresholds import Verdict

PAGE = (
    "<html><head><title>t</title></head><body><nav><a href='/'>Home</a><a href='/x'>About</a></nav><article><h1>The harbour</h1>"
    + "".join(
        f"<p>Paragraph {n} tells how the ships came in at dusk, and what they carried to the quiet town.</p>" for n in range(5)
    )
    + "</article><footer>Copyright</footer></body></html>"
).encode()
SLEEPER = """import sys, struct, signal
def read():
    header = sys.stdin.buffer.read(8)
    return sys.stdin.buffer.read(struct.unpack("<Q", header)[0]) if header else sys.exit()
while True:
    page = read()
    signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
    while page == b"slow": sum(range(10**6))
    if page == b"crash": import os; os.kill(os.getpid(), signal.SIGSEGV)
    sys.stdout.buffer.write(struct.pack("<Q", len(page)) + page); sys.stdout.buffer.flush()
"""


@pytest.fixture
def pages():  # type: ignore[no-untyped-def]
    extractor = HtmlExtractor(5.0)
    yield extractor
    extractor.close()


def test_the_article_is_taken_and_the_frame_left(pages: HtmlExtractor) -> None:
    text = pages.extract(PAGE)
    assert isinstance(text, str)
    assert "ships came in at dusk" in text
    assert "About" not in text
    assert pages.extract(PAGE) == text


def test_a_fragment_is_a_page_too(pages: HtmlExtractor) -> None:
    fragment = PAGE.partition(b"<article>")[2].partition(b"</article>")[0]
    assert "ships came in at dusk" in str(pages.extract(b"<div>" + fragment + b"</div>"))


def test_pages_without_an_article_say_so_and_do_not_stop_the_next(pages: HtmlExtractor) -> None:
    for page in (b"<html></html>", b"\x00\xff\xfe<<<>>>", b"<div></div>"):
        assert pages.extract(page) == Verdict("extract.nothing_found", 0, 1)
    assert isinstance(pages.extract(PAGE), str)


def test_a_page_over_its_time_or_a_crash_costs_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = tmp_path / "child.py"
    stand_in.write_text(SLEEPER)
    popen = child.subprocess.Popen
    monkeypatch.setattr(
        child.subprocess, "Popen", lambda command, **rest: popen([command[0], str(stand_in), command[-1]], **rest)
    )
    extractor = HtmlExtractor(0.1)
    assert extractor.extract(b"fine") == "fine"
    assert extractor.extract(b"slow") == Verdict("extract.max_seconds", "over", 0.1)
    assert extractor.extract(b"fine") == "fine"
    assert extractor.extract(b"crash") == Verdict("extract.crashed", f"signal {int(signal.SIGSEGV)}", "a parser that survives")
    assert extractor.extract(b"fine") == "fine"
    process = extractor.child.process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert isinstance(extractor.extract(b"fine"), Verdict)
    assert extractor.extract(b"fine") == "fine"
    extractor.close()
