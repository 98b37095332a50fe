"""Is my compute enough, and for what: all weights, LoRA or QLoRA? One row each, for this machine and for GPUs. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lianlu.core import console
from lianlu.core.machine import gpu_names, memory_bytes
from lianlu.train.plan.gpus import Gpu, find_gpu
from lianlu.train.plan.layouts import fits, planned_gpus, smallest
from lianlu.train.plan.memory import memory
from lianlu.train.plan.setting import Adapter, Setting, weights

USUAL_RANK = 16
# what the system and everything else on this machine needs
SYSTEM_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Way:
    """One way to tune: name, peak bytes on this machine, whether it fits here, where it fits else, and why."""

    name: str
    memory_bytes: int
    here: str
    elsewhere: str
    reason: str


def ways(setting: Setting) -> list[Way]:
    """All weights, LoRA and QLoRA of the model of `setting` with its sizes, most memory first."""
    adapter = setting.adapter or Adapter(USUAL_RANK)
    tried = [replace(setting, adapter=None)]
    tried += [replace(setting, adapter=replace(adapter, quantised=quantised)) for quantised in (False, True)]
    return [_way(one, here_gpus()) for one in tried]


def here_gpus() -> list[Gpu]:
    """The GPUs of this machine that are in the table."""
    return [gpu for name in gpu_names() if (gpu := find_gpu(name))]


def _way(setting: Setting, here: Sequence[Gpu]) -> Way:
    setting = replace(setting, gpu=bool(here))
    need = memory(setting).peak_bytes
    return Way(setting.way, need, _fits_here(setting, need, here), _fits_elsewhere(setting), _reason(setting))


def _fits_here(setting: Setting, need: int, here: Sequence[Gpu]) -> str:
    if not here:
        have = memory_bytes() - SYSTEM_BYTES
        return "fits" if need <= have else f"lacks {console.format_bytes(need - have)}"
    if fits(need, here[0]):
        return f"fits one {here[0].title}"
    found = smallest(setting, here[0], len(here))
    return f"fits {found.setting.division.num_devices} x {here[0].title}" if found else "does not fit"


def _fits_elsewhere(setting: Setting) -> str:
    """The smallest GPU that alone is enough, else the smallest group."""
    alone = [gpu for gpu in planned_gpus() if smallest(setting, gpu, 1)]
    if alone:
        return f"1 x {alone[0].title}"
    largest = planned_gpus()[-1]
    found = smallest(setting, largest)
    return f"{found.setting.division.num_devices} x {largest.title}" if found else f"not on 64 x {largest.title}"


def _reason(setting: Setting) -> str:
    count = weights(setting.model, setting.adapter)
    if setting.adapter is None:
        return f"{count.model / 1e6:,.0f} M weights with gradients and optimiser states; learns most, forgets most"
    share = 100 * count.adapter / count.model
    held = "in 4 bits" if setting.adapter.quantised else f"in {'bf16' if setting.width == 2 else 'fp32'}"
    cost = "; slower, as they are widened at every use" if setting.adapter.quantised else ""
    return f"{count.adapter / 1e6:,.1f} M weights trained ({share:.1f} %), the others frozen {held}{cost}"
