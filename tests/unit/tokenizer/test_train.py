"""The stage: equal input, equal bytes; a vocabulary that splits as promised."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import regex

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.formats.documents import Document, write_documents
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.tokenizer.train import TokenizerConfig, estimate, run, split_pattern

SCRIPT = (
    "import sys; from pathlib import Path; from lianlu.core.store import Output; from lianlu.tokenizer.train import *;"
    "run(TokenizerConfig(data=sys.argv[1], vocab_size=600), Output(Path(sys.argv[2])))"
)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_equal_input_gives_equal_bytes(documents: Path, folder: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(documents), str(tmp_path)], check=True, capture_output=True, env=environment
    )
    assert digests(tmp_path) == digests(folder)
    assert sorted(digests(folder)) == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]


def test_several_folders_are_read_as_one(documents: Path, tmp_path: Path) -> None:
    greek = [Document(f"g{n}", "λόγος άνθρωπος θάλασσα " * 20) for n in range(60)]
    write_documents(tmp_path / "greek", greek)
    for name in ("out", "alone"):
        (tmp_path / name).mkdir()
    out, alone = Output(tmp_path / "out"), Output(tmp_path / "alone")
    config = TokenizerConfig(data=(str(documents), str(tmp_path / "greek")), vocab_size=700)
    run(config, out)
    run(TokenizerConfig(data=str(documents), vocab_size=700), alone)
    assert out.figures["num_documents"] == 260
    both, one = (Tokenizer.load(made.path) for made in (out, alone))
    assert len(both.encode("θάλασσα")) < len(one.encode("θάλασσα"))
    assert estimate(config).seconds > estimate(TokenizerConfig(data=str(documents), vocab_size=700)).seconds


def test_figures(documents: Path, tmp_path: Path) -> None:
    out = Output(tmp_path)
    run(TokenizerConfig(data=str(documents), vocab_size=512), out)
    assert out.figures["vocab_size"] == Tokenizer.load(tmp_path).vocab_size <= 512
    assert out.figures["num_documents"] == 200
    assert 1 < out.figures["bytes_per_token_code"] < 20
    assert 1 < out.figures["bytes_per_token_web"] < 20
    assert json.dumps(out.figures)


def test_control_tokens_come_first_and_tool_tags_are_ordinary(tokenizer: Tokenizer) -> None:
    first = [tokenizer.token(index) for index in range(9)]
    assert first[:5] == ["<|endoftext|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    assert first[5:] == ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    assert sorted(tokenizer.backend.specials.values()) == [0, 1, 2, 3, 4]
    assert tokenizer.decode(tokenizer.encode("<tool_call>")) == "<tool_call>"


def test_extra_tokens(documents: Path, tmp_path: Path) -> None:
    run(TokenizerConfig(data=str(documents), vocab_size=512, extra_tokens=("<|fim|>",)), Output(tmp_path))
    assert Tokenizer.load(tmp_path).token_id("<|fim|>") == 9


@pytest.mark.parametrize(
    ("max_digits", "text", "pieces"),
    [
        (1, "in 2024", ["in", " ", "2", "0", "2", "4"]),
        (3, "in 2024", ["in", " ", "202", "4"]),
        (1, "it's  two\n\n  x", ["it", "'s", " ", " two", "\n\n", " ", " x"]),
        (1, "你好，世界", ["你好", "，世界"]),
        (1, "a=b(c)", ["a", "=b", "(c", ")"]),
        (1, "हिन्दी", ["हिन्दी"]),
    ],
)
def test_pieces(max_digits: int, text: str, pieces: list[str]) -> None:
    assert regex.findall(split_pattern(max_digits), text) == pieces


def test_no_token_crosses_a_piece_or_is_too_long(documents: Path, tmp_path: Path) -> None:
    run(TokenizerConfig(data=str(documents), vocab_size=2000, max_token_bytes=6, min_frequency=1), Output(tmp_path))
    tokenizer = Tokenizer.load(tmp_path)
    for index in range(9, tokenizer.vocab_size):
        text = tokenizer.decode([index])
        assert len(tokenizer.token(index)) <= 6
        assert len(regex.findall(split_pattern(1), text)) <= 1 or "\ufffd" in text


def test_a_part_of_the_text_is_enough(documents: Path, tmp_path: Path) -> None:
    run(TokenizerConfig(data=str(documents), vocab_size=512, max_train_bytes=4000), Output(tmp_path))
    assert Tokenizer.load(tmp_path).vocab_size <= 512


def test_little_text_gives_a_smaller_vocabulary_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_documents(tmp_path / "docs", [Document(id="one", text="hello hello")])
    out = Output(tmp_path / "out")
    run(TokenizerConfig(data=str(tmp_path / "docs")), out)
    assert out.figures["vocab_size"] < 8192
    assert "yields only" in capsys.readouterr().err
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("完全不同 😀")) == "完全不同 😀"


def test_no_text_is_an_error(tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", [Document(id="one", text="")])
    with pytest.raises(DataError, match="no text") as caught:
        run(TokenizerConfig(data=str(tmp_path / "docs")), Output(tmp_path / "out"))
    assert "funnel" in caught.value.hint


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size"):
        validate(TokenizerConfig, {"data": "x", "vocab_size": 100})


def test_estimate_of_what_is_not_there_yet(documents: Path) -> None:
    assert estimate(TokenizerConfig(data="no/such/folder")).seconds > 0
    assert estimate(TokenizerConfig(data=str(documents))).memory_bytes > 0
