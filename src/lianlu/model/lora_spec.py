"""What a LoRA adapter is: rank, strength and targets, and PEFT's adapter_config.json both ways. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lianlu.core.config import Config
from lianlu.core.errors import DataError

ALL_LINEAR: Literal["all-linear"] = "all-linear"
UNSUPPORTED = (
    *("modules_to_save", "fan_in_fan_out", "lora_bias", "trainable_token_indices", "target_parameters", "layer_replication"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
)
# ways to begin that change the weights below the adapter, so that it fits the changed ones only
MOVED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
RETRAIN = "train the adapter without it, or merge it with PEFT and load the merged model"


class LoraSpec(Config):
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685): `W + alpha / rank * B A` on the chosen linear layers."""

    rank: int = Field(default=16, gt=0)
    """Rank of every update."""
    alpha: float = Field(default=32.0, gt=0)
    """Strength: updates are multiplied by alpha / rank (with `rslora` by alpha / sqrt(rank))."""
    rslora: bool = False
    """Divide by the root of the rank (arXiv 2312.03732), so that high ranks learn as fast as low ones."""
    dora: bool = False
    """Learn the length of each output's weights apart from their direction (DoRA, arXiv 2402.09353); a little slower."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of inputs of an update dropped in training."""
    target: Literal["all-linear"] | tuple[str, ...] = ALL_LINEAR
    """Linear layers by their Hugging Face names (q_proj, gate_proj, ...; wqkv, w1, ... of InternLM2), or "all-linear"."""

    @property
    def scaling(self) -> float:
        """What an update is multiplied by."""
        return self.alpha / _divisor(self.rank, self.rslora)


class PeftConfig(Config):
    """The part of adapter_config.json that decides what an adapter computes."""

    alpha: float
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False

    def scaling(self, path: str, rank: int) -> float:
        """What the update of the module at `path` is multiplied by."""
        own = [alpha for key, alpha in self.alpha_pattern.items() if re.fullmatch(rf"(.*\.)?({key})", path)]
        alpha = own[0] if own else self.alpha
        return alpha / _divisor(rank, self.rslora)


@dataclass(frozen=True)
class Written:
    """What adapter_config.json says of a whole adapter; `base_name` is the model it belongs to."""

    base_name: str
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False


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
    start = str(table.get("init_lora_weights"))
    if start.startswith(MOVED_BASE):
        hint = "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain adapter"
        raise DataError(f"{file}: the adapter began by {start}, which changed the weights it belongs to", hint=hint)
    alpha, pattern = table.get("lora_alpha"), table.get("alpha_pattern") or {}
    if not isinstance(alpha, int | float) or not isinstance(pattern, dict):
        raise DataError(f"{file} has no usable lora_alpha", hint="the file is damaged: save the adapter again")
    dropout = float(table.get("lora_dropout") or 0.0)
    rslora, dora = bool(table.get("use_rslora")), bool(table.get("use_dora"))
    return PeftConfig(alpha=alpha, alpha_pattern=pattern, dropout=dropout, rslora=rslora, dora=dora)


def peft_table(written: Written, modules: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """adapter_config.json for updates at `modules`: path -> (rank, what the update is multiplied by).

    Targets are last names where these say it all, else whole paths; ranks and alphas that differ become patterns.
    """
    own = {path: (rank, _alpha(scaling, rank, written.rslora)) for path, (rank, scaling) in modules.items()}
    rank, alpha = next(iter(own.values()))
    leaves = {path.rpartition(".")[2] for path in modules}
    layers = {match[0] for path in modules if (match := re.match(r".*layers\.\d+\.", path))}
    regular = len(modules) == len(leaves) * len(layers)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": written.base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": written.dropout,
        "target_modules": sorted(leaves if regular else modules),
        "rank_pattern": {path: found[0] for path, found in own.items() if found[0] != rank},
        "alpha_pattern": {path: found[1] for path, found in own.items() if found[1] != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": written.dora,
        "use_rslora": written.rslora,
    }


def _divisor(rank: int, rslora: bool) -> float:
    return rank**0.5 if rslora else rank


def _alpha(scaling: float, rank: int, rslora: bool) -> float:
    """The alpha that makes this scaling; a root's last digits are not shown."""
    return float(f"{scaling * _divisor(rank, rslora):.12g}")
