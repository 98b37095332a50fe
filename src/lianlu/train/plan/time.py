"""How long training takes: operations of flops.py over what a device computes in practice. Imports no torch.

On a CPU the rates are those this project measured in whole training steps (products, attention and the rest together) on a
2-core EPYC: 140 GFLOP/s a core with native bfloat16, 55 without; other processors differ by up to a factor of two. On GPUs
it is the peak of the data sheet times an assumed utilisation; what a device computes twice (checkpointing) comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from lianlu.core.machine import cpu_flags, num_cores
from lianlu.train.flops import Flops
from lianlu.train.plan.gpus import Gpu
from lianlu.train.plan.setting import Precision, Setting, weights

CPU_FLOPS = {"bfloat16": 140e9, "float32": 55e9}
# Share of the peak in whole steps that is assumed, and what remains of it where devices talk in every layer, where they talk
# over a network, and where all but the products is computed twice.
UTILISATION = 0.40
TENSOR_SHARE = 0.85
NETWORK_SHARE = 0.90
SELECTIVE_SHARE = 0.95
NODE = 8


@dataclass(frozen=True)
class Pace:
    """Tokens a second of all devices together, and the operations a token takes (with what is computed twice)."""

    tokens_per_s: float
    flops_per_token: float


def pace(setting: Setting, gpu: Gpu | None) -> Pace:
    """The pace of a run on its devices: `gpu`s, or this machine's processor."""
    per_token = flops_per_token(setting)
    return Pace(setting.division.num_devices * _device_flops(setting, gpu) / per_token, per_token)


def flops_per_token(setting: Setting) -> float:
    """Operations of a token in sequences of the usual length, forwards, backwards and once more where nothing is kept."""
    flops = flops_of(setting)
    lengths, targets = [setting.sequence], round(setting.sequence * setting.target_share)
    return (flops.step(lengths, targets) + flops.recomputed(lengths, setting.checkpointing)) / setting.sequence


def flops_of(setting: Setting) -> Flops:
    """The operations of a setting's model."""
    return Flops(setting.model, weights(setting.model, setting.adapter).adapter if setting.adapter else None)


def cpu_precision(precision: str) -> Precision:
    """The number type of products on this processor: auto is bfloat16 where it multiplies that natively."""
    if precision == "auto":
        return "bfloat16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "float32"
    return "bfloat16" if precision == "bfloat16" else "float32"


def _device_flops(setting: Setting, gpu: Gpu | None) -> float:
    if gpu is None:
        native = setting.precision == "bfloat16" and {"avx512_bf16", "amx_bf16"} & cpu_flags()
        return CPU_FLOPS["bfloat16" if native else "float32"] * num_cores()
    rate = gpu.flops[setting.precision] * UTILISATION
    if setting.division.tensor > 1:
        rate *= TENSOR_SHARE
    if setting.checkpointing == "selective":
        rate *= SELECTIVE_SHARE
    return rate * NETWORK_SHARE if setting.division.num_devices > NODE else rate
