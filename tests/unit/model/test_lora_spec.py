from pathlib import Path

import pytest
from pydantic import ValidationError

from lianlu.model.lora_spec import LoraSpec, Written, peft_table, read_peft

FILE = Path("adapter_config.json")


@pytest.mark.parametrize("fields", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"target": "some"}, {"ranks": 3}])
def test_impossible_specs_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LoraSpec.model_validate(fields)


def test_scaling_with_patterns_and_rslora() -> None:
    table = {"peft_type": "LORA", "lora_alpha": 8, "r": 4, "alpha_pattern": {"k_proj": 16, r"layers\.1\..*": 2}}
    config = read_peft(table, FILE)
    assert config.scaling("model.layers.0.self_attn.q_proj", 4) == 2.0
    assert config.scaling("model.layers.0.self_attn.k_proj", 4) == 4.0
    assert config.scaling("model.layers.1.mlp.up_proj", 4) == 0.5
    assert read_peft({**table, "use_rslora": True}, FILE).scaling("x", 4) == 4.0


def test_regular_adapters_name_leaves_irregular_ones_paths() -> None:
    every = {f"model.layers.{i}.self_attn.{name}": (4, 2.0) for i in range(2) for name in ("q_proj", "v_proj")}
    assert peft_table(Written("base"), every)["target_modules"] == ["q_proj", "v_proj"]
    some = {path: own for path, own in every.items() if "1.self_attn.v" not in path}
    some["model.layers.1.self_attn.q_proj"] = (2, 3.0)
    table = peft_table(Written("base"), some)
    assert table["target_modules"] == sorted(some)
    assert table["rank_pattern"] == {"model.layers.1.self_attn.q_proj": 2}
    assert table["alpha_pattern"] == {"model.layers.1.self_attn.q_proj": 6.0}
