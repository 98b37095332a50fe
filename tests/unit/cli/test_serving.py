"""The options of `serve`, and the table they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lianlu.serve.main
from lianlu.cli import serving
from lianlu.cli.main import call
from lianlu.core.config import validate
from lianlu.core.errors import ConfigError
from lianlu.core.files import write_json
from lianlu.serve.config import ServeConfig


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model of 512 positions."""
    table = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 10,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    }  # fmt: skip
    write_json(tmp_path / "model" / "config.json", table)
    return tmp_path / "model"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, home: Path) -> list[tuple[Path, ServeConfig]]:
    """What `serve` was called with, checked as it would be."""
    seen: list[tuple[Path, ServeConfig]] = []
    monkeypatch.setattr(lianlu.serve.main, "serve", lambda path, **table: seen.append((path, validate(ServeConfig, table))))
    return seen


def test_defaults(model: Path, asked: list[Any]) -> None:
    assert call(["serve", str(model)]) == 0
    ((path, config),) = asked
    assert path == model
    assert config == validate(ServeConfig, {"name": str(model), "engine": {"dtype": "auto"}})


def test_every_option_arrives(model: Path, asked: list[Any], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    text = (
        f"serve {model} --host 0.0.0.0 --port 1 --name n --grpc-port 2 --tls-cert c --tls-key k --cors-origin https://a "
        f"--cors-origin https://b --precision bfloat16 --quant int4 --kv int8 --context 2048 --rope yarn:4 --max-tokens 9000 "
        f"--speculate {model} --adapter one={adapter} --adapter {adapter} --sessions s --api-key x --api-keys keys.toml "
        "--admin-key y --metrics-public --max-running 3 --max-queued 0 --max-first-token 1.5 --drain 2"
    )
    assert call(text.split()) == 0
    ((_, config),) = asked
    assert config.model_dump(mode="json", exclude={"engine", "max_body_bytes", "max_recent"}) == {
        "name": "n", "host": "0.0.0.0", "port": 1, "grpc_port": 2, "merge": str(adapter), "adapters": {"one": str(adapter)},
        "api_key": "x", "api_keys": "keys.toml", "admin_key": "y", "tls_cert": "c", "tls_key": "k",
        "cors_origins": ["https://a", "https://b"], "metrics_public": True, "drain_s": 2.0,
    }  # fmt: skip
    engine = config.engine
    assert (engine.dtype, engine.quant, engine.kv, engine.context, engine.max_tokens) == ("bfloat16", "int4", "int8", 2048, 9000)
    assert engine.rope.model_dump(include={"kind", "factor", "original_max_position_embeddings"}) == {
        "kind": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    assert engine.speculation.model == model
    assert (engine.sessions, engine.max_running, engine.max_queued, engine.max_first_token_s) == (Path("s"), 3, 0, 1.5)


def test_keys_come_from_the_environment(model: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIANLU_API_KEY", "a")
    monkeypatch.setenv("LIANLU_ADMIN_KEY", "b")
    call(["serve", str(model), "--speculate", "ngram"])
    assert (asked[0][1].api_key, asked[0][1].admin_key, asked[0][1].engine.speculation.kind) == ("a", "b", "ngram")


@pytest.mark.parametrize("text", ["yarn", "yarn:", "yarn:x", "yarn:0.5", "yarn:nan", "yarn:inf", "ntk:2", ":4", "linear:1e9"])
def test_a_wrong_rope(model: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read --rope"):
        serving.scaling(text, model)


@pytest.mark.parametrize("texts", [["=x"], ["a="], ["a={0}", "a={0}"], ["{0}", "{0}"]])
def test_wrong_adapters(tmp_path: Path, home: Path, texts: list[str]) -> None:
    with pytest.raises(ConfigError):
        serving.split_adapters([text.format(tmp_path) for text in texts])


def test_a_model_that_is_not_there_is_the_user_s_mistake(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "/nonexistent/model"]) == 2
    assert "hint:" in capsys.readouterr().err


def test_help_has_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "--help"]) == 0
    said = capsys.readouterr().out
    for heading in (serving.WHERE, serving.HOW, serving.TALK, serving.WHO, serving.CAPS):
        assert f"\n{heading}:\n" in said
    for option in ("--grpc-port", "--speculate", "--cors-origin", "--max-first-token"):
        assert said.count(f"{option} ") == 1
