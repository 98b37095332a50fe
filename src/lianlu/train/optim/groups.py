"""Which parameter is trained how: the optimiser's own choice by the kind of a parameter, then the user's rules by its name.

Names are those of the Decoder (layers.3.attention.wqkv.weight, embed_tokens.weight, layers.0.mlp.down.lora_A.down_proj).
Embedding, output layer and norms are told from the matrices of the blocks by name, too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lianlu.core.errors import ConfigError
from lianlu.model.decoder import Attention, FeedForward
from lianlu.train.config import AdamW8, GroupRule, Muon, Optim
from lianlu.train.optim import adamw8

NUM_NAMES_SHOWN = 5
BLOCK_NAME = re.compile(r"(^|\.)layers\.\d+\.")
EMBEDDING_NAME = re.compile(r"(^|\.)embed_tokens\.")


def parameter_groups(model: nn.Module, config: Optim, part: bool = False) -> list[dict[str, Any]]:
    """Groups of trainable parameters with all their settings; those with equal settings share a group.

    `part` says that the model is a part of one (a pipeline stage), where a rule may find nothing.
    Raises: ConfigError if a rule finds nothing, or there is no matrix for Muon.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not part:
        check_rules(config.groups, trained, [name for name, p in model.named_parameters() if not p.requires_grad])
    fused = fused_rows(model)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in trained.items():
        settings = _settings(name, parameter, config, fused)
        groups.setdefault(tuple(settings.items()), {"params": [], **settings})["params"].append(parameter)
    if isinstance(config, Muon) and trained and not part and not any(group["update"] == "muon" for group in groups.values()):
        raise ConfigError("optim.kind = muon finds no matrix to train in the blocks", hint="use optim.kind = adamw")
    return list(groups.values())


def _settings(name: str, parameter: Tensor, config: Optim, fused: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the parameter is trained with; `scale` multiplies the rate that the loop sets."""
    update, scale = _update(name, parameter, config), 1.0
    own: dict[str, Any] = {"betas": config.betas, "eps": config.eps}
    if isinstance(config, Muon):
        if update == "muon":
            own = {key: getattr(config, key) for key in ("momentum", "nesterov", "newton_schulz_steps", "precision")}
            own["rows"] = fused.get(name, ())
        elif config.adamw_lr is not None:
            scale = config.adamw_lr / config.lr
    decay = config.weight_decay if parameter.ndim >= 2 else 0.0
    rule = next((rule for rule in config.groups if re.search(rule.match, name)), None)
    if rule is not None:
        scale *= rule.lr
        decay = decay if rule.weight_decay is None else rule.weight_decay
    return {"update": update, "lr": config.lr * scale, "scale": scale, "weight_decay": decay, **own}


def _update(name: str, parameter: Tensor, config: Optim) -> str:
    """The kind of step: adamw, adamw8 or muon."""
    if parameter.ndim < 2:
        return "adamw"
    if isinstance(config, Muon):
        return "muon" if BLOCK_NAME.search(name) else "adamw"
    if isinstance(config, AdamW8):
        wide = parameter.numel() < adamw8.MIN_ELEMENTS or (config.embedding_bits == 32 and EMBEDDING_NAME.search(name))
        return "adamw" if wide else "adamw8"
    return "adamw"


def fused_rows(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """By name of a fused weight, how its rows take turns between the matrices it is made of."""
    found: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        if isinstance(module, Attention):
            found[f"{path}.wqkv.weight"] = (module.num_queries * module.head_dim, module.head_dim, module.head_dim)
        elif isinstance(module, FeedForward) and isinstance(weight := getattr(module.gate_up, "weight", None), Tensor):
            half = weight.numel() // weight.shape[-1] // 2
            found[f"{path}.gate_up.weight"] = (half, half)
    return found


def check_rules(rules: Sequence[GroupRule], trained: Iterable[str], frozen: Iterable[str]) -> None:
    """Raises: ConfigError for a rule that finds no trained parameter, or only such as an earlier rule has taken."""
    left = list(trained)
    for number, rule in enumerate(rules):
        found = [name for name in left if re.search(rule.match, name)]
        if not found:
            raise _finds_nothing(f"optim.groups[{number}] (match = {rule.match!r})", rule.match, list(trained), frozen)
        left = [name for name in left if name not in set(found)]


def _finds_nothing(rule: str, match: str, trained: Sequence[str], frozen: Iterable[str]) -> ConfigError:
    taken = next((name for name in trained if re.search(match, name)), None)
    if taken is not None:
        return ConfigError(
            f"{rule} finds only what an earlier rule has taken, such as {taken}", hint="put it first, or remove it"
        )
    fixed = next((name for name in frozen if re.search(match, name)), None)
    if fixed is not None:
        return ConfigError(f"{rule} finds only what is not trained, such as {fixed}", hint=f"trained are {_some(match, trained)}")
    return ConfigError(f"{rule} finds no parameter", hint=f"did you mean {_some(match, trained)}?")


def _some(match: str, names: Sequence[str]) -> str:
    """A few names that come closest, one of each kind of layer."""
    kinds = list({re.sub(r"\.\d+\.", ".N.", name): name for name in reversed(names)}.values())[::-1]
    word = re.sub(r"\\(.)", r"\1", match).strip("^$")
    ranked = sorted(kinds, key=lambda name: -_likeness(word, name))
    return ", ".join(ranked[:NUM_NAMES_SHOWN])


def _likeness(word: str, name: str) -> float:
    """How much of `word` is found in `name`, in order."""
    matcher = difflib.SequenceMatcher(None, word, name, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / max(len(word), 1) - len(name) / 1000
