"""What is said of a served model, and the quality card beside its weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lianlu.engine.config import EngineConfig
from lianlu.serve.models import MAX_CARD_BYTES, Served, read_card


def test_states(fake_engine: Any) -> None:
    served = Served("m")
    assert (served.state, served.card_fields()) == ("loading", {"state": "loading"})
    served.engine = fake_engine
    assert served.state == "ready"
    fake_engine.engine.asleep = True
    assert served.state == "asleep"
    fake_engine.draining = True
    assert served.state == "draining"


@pytest.mark.parametrize(
    ("config", "quality", "said"),
    [
        ({}, None, ("none", "float32")),
        ({"quant": "int4", "kv": "int8"}, None, ("int4", "int8")),
        ({}, {"method": "lianlu-int8"}, ("lianlu-int8", "float32")),
        ({"quant": "int4"}, {"method": "lianlu-int8"}, ("int4", "float32")),
    ],
)
def test_the_card(fake_engine: Any, config: dict[str, Any], quality: dict[str, Any] | None, said: tuple[str, str]) -> None:
    fake_engine.engine = SimpleNamespace(**vars(fake_engine.engine) | {"config": EngineConfig(**config)})
    card = Served("m", engine=fake_engine, quality=quality).card_fields()
    assert (card["quantization"], card["kv_cache"]) == said
    assert card.get("quality") == quality


def test_a_quality_card_that_cannot_be_read_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "card.json"
    assert read_card(tmp_path) is None
    for text, warned in (("{", True), ("[1]", False), ("x" * (MAX_CARD_BYTES + 1), False), ("\udcff", True)):
        file.write_text(text, errors="surrogateescape")
        assert read_card(tmp_path) is None
        assert ("is not shown" in capsys.readouterr().err) is warned
    file.write_text('{"perplexity": NaN, "method": "m"}')
    assert read_card(tmp_path) == {"perplexity": None, "method": "m"}
    assert read_card(file) is None
