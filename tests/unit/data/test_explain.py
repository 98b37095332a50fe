from __future__ import annotations

from pathlib import Path

from lianlu.core.config import validate
from lianlu.core.store import Output
from lianlu.data import clean
from lianlu.data.clean import CleanConfig
from lianlu.data.explain import explain
from lianlu.data.rules.thresholds import Thresholds, shipped
from lianlu.data.scores.decide import Rules
from lianlu.data.scores.scored import SCORED
from lianlu.formats.documents import Document, write_jsonl

TEXT = "The ferry left at noon, and nobody on the pier waved to those who had stayed behind. "


def test_documents_are_found_by_id_and_by_address(tmp_path: Path) -> None:
    rows = [Document(f"d{number % 3}", f"{number} {TEXT}", url=f"https://e.org/{number % 2}") for number in range(4)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    out = tmp_path / "out"
    out.mkdir()
    clean.run(validate(CleanConfig, {"source": str(tmp_path / "a.jsonl"), "rules": [], "workers": 1}), Output(out))
    rules = Rules((), Thresholds(shipped()), ())

    def found(name: str) -> list[str]:
        return [one.document.text[0] for one in explain(out, out / SCORED, name, rules)]

    assert found("d0") == ["0", "3"]
    assert found("https://e.org/1") == ["1", "3"]
    assert found("https://e.org/9") == found("d9") == []
    assert found("d0~2") == ["3"]
    assert found("d1~2") == []
