"""What a LoRA adapter is: rank, strength and targets, and PEFT's adapter_config.json both ways. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lianlu.core.config import Config
from lianlu.core.errors import DataError

ALL_LINEAR: Literal["all-linear"] = "all-linear"
UNSUPPORTED = ("use_dora", "modules_to_save", "fan_in_fan_out", "lora_bias", "trainable_token_indices", "target_parameters")
RETRAIN = "train the adapter without it, or merge it with PEFT and load the merged model"


class LoraSpec(Config):
    """A low-rank adapter (Hu et al. 2021): `W + alpha / rank * B A` on the chosen linear layers."""

    rank: int = Field(default=16, gt=0)
    """Rank of every update."""
    alpha: float = Field(default=32.0, gt=0)
    """Strength: updates are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of inputs of an update dropped in training."""
    target: Literal["all-linear"] | tuple[str, ...] = ALL_LINEAR
    """Linear layers by their Hugging Face names (q_proj, gate_proj, ...; wqkv, w1, ... of InternLM2), or "all-linear"."""


class PeftConfig(Config):
    """The part of adapter_config.json that decides what an adapter computes."""

    alpha: float
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    dropout: float = 0.0
    rslora: bool = False

    def scaling(self, path: str, rank: int) -> float:
        """What the update of the module at `path` is multiplied by."""
        own = [alpha for key, alpha in self.alpha_pattern.items() if re.fullmatch(rf"(.*\.)?({key})", path)]
        alpha = own[0] if own else self.alpha
        return alpha / (rank**0.5 if self.rslora else rank)


def read_peft(table: Mapping[str, Any], file: Path) -> PeftConfig:
    """Understand an adapter_config.json. Raises: DataError that names `file` for a kind of adapter we do not compute."""
    kind = table.get("peft_type")
    if kind != "LORA":
        raise DataError(f"{file}: peft_type is {kind!r}, not LORA", hint="only LoRA adapters are read")
    used = [name for name in UNSUPPORTED if table.get(name)]
    if table.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise DataError(f"{file}: {used[0]} = {table[used[0]]!r} is not supported", hint=RETRAIN)
    alpha, pattern = table.get("lora_alpha"), table.get("alpha_pattern") or {}
    if not isinstance(alpha, int | float) or not isinstance(pattern, dict):
        raise DataError(f"{file} has no usable lora_alpha", hint="the file is damaged: save the adapter again")
    dropout = float(table.get("lora_dropout") or 0.0)
    return PeftConfig(alpha=alpha, alpha_pattern=pattern, dropout=dropout, rslora=bool(table.get("use_rslora")))


def peft_table(base_name: str, dropout: float, modules: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """adapter_config.json for updates at `modules`: path -> (rank, alpha).

    Targets are last names where these say it all, else whole paths; ranks and alphas that differ become patterns.
    """
    rank, alpha = next(iter(modules.values()))
    leaves = {path.rpartition(".")[2] for path in modules}
    layers = {match[0] for path in modules if (match := re.match(r".*layers\.\d+\.", path))}
    regular = len(modules) == len(leaves) * len(layers)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted(leaves if regular else modules),
        "rank_pattern": {path: own[0] for path, own in modules.items() if own[0] != rank},
        "alpha_pattern": {path: own[1] for path, own in modules.items() if own[1] != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
