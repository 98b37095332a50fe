"""What decides the memory and the time of a training run: model, what is trained, sizes, devices. Imports no torch.

Sizes are those of one process (one device), `Division` says among how many the run is divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lianlu.model.config import ModelConfig
from lianlu.train.flops import block_weights, head_weights

Precision = Literal["float32", "bfloat16"]
Checkpointing = Literal["none", "selective", "full"]
Sharding = Literal["none", "gradient", "full"]
ALL_LINEAR = "all-linear"
# our fused layers -> names of their pieces in Hugging Face checkpoints, as adapters target them
PIECES = {
    "internlm2": {"wqkv": ("wqkv",), "wo": ("wo",), "gate_up": ("w1", "w3"), "down": ("w2",)},
    "llama": {
        "wqkv": ("q_proj", "k_proj", "v_proj"),
        "wo": ("o_proj",),
        "gate_up": ("gate_proj", "up_proj"),
        "down": ("down_proj",),
    },
}


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates over frozen weights; `quantised`: the weights of the blocks are NF4; `magnitudes`: DoRA's are there."""

    rank: int
    target: str | Sequence[str] = ALL_LINEAR
    quantised: bool = False
    dropout: bool = False
    magnitudes: bool = False
    double_quant: bool = True


@dataclass(frozen=True)
class Division:
    """Among how many devices a run is divided, and what they share."""

    data: int = 1
    sharding: Sharding = "full"
    shard_size: int = 0
    tensor: int = 1
    sequence: int = 1
    pipeline: int = 1

    @property
    def num_devices(self) -> int:
        """All of them; data counts the groups that see different examples."""
        return self.data * self.tensor * self.sequence * self.pipeline

    @property
    def num_shards(self) -> int:
        """Devices that share one copy of what is sharded."""
        return self.shard_size or self.data * self.sequence


@dataclass(frozen=True)
class Setting:
    """One run as far as memory and time go.

    `micro_tokens` are computed at once by one device, in sequences of `sequence` tokens; `target_share` of them have a target.
    `accumulates`: a step has several micro-batches, so that gradients wait beside activations.
    """

    model: ModelConfig
    precision: Precision = "bfloat16"
    optimizer: str = "adamw"
    adapter: Adapter | None = None
    micro_tokens: int = 8192
    sequence: int = 512
    target_share: float = 1.0
    accumulates: bool = False
    checkpointing: Checkpointing = "none"
    gpu: bool = False
    async_states: bool = False
    division: Division = field(default_factory=Division)

    @property
    def width(self) -> int:
        """Bytes of a number in products."""
        return 2 if self.precision == "bfloat16" else 4

    @property
    def way(self) -> str:
        """full, lora or qlora."""
        if self.adapter is None:
            return "full"
        return "qlora" if self.adapter.quantised else "lora"


@dataclass(frozen=True)
class Update:
    """The low-rank updates of one fused layer: its inputs and outputs, and the rows of every piece that has one."""

    inputs: int
    outputs: int
    rows: tuple[int, ...]


def updates(config: ModelConfig, target: str | Sequence[str]) -> dict[str, Update]:
    """Fused layer -> its updates, for a target of a LoraSpec. Names nobody knows are left out."""
    query, key = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = {
        "wqkv": (config.hidden_size, config.qkv_size),
        "wo": (query, config.hidden_size),
        "gate_up": (config.hidden_size, 2 * config.intermediate_size),
        "down": (config.intermediate_size, config.hidden_size),
    }
    own = "internlm2" if config.architecture == "internlm2" else "llama"
    families = (own,) if isinstance(target, str) else tuple(PIECES)
    wanted = {name for row in PIECES[own].values() for name in row} if isinstance(target, str) else set(target)
    found: dict[str, Update] = {}
    for family in families:
        for layer, pieces in PIECES[family].items():
            inputs, outputs = shapes[layer]
            split = (query, key, key) if len(pieces) == 3 else (outputs // len(pieces),) * len(pieces)
            rows = tuple(size for name, size in zip(pieces, split, strict=True) if name in wanted)
            if rows and layer not in found:
                found[layer] = Update(inputs, outputs, rows)
    return found


@dataclass(frozen=True)
class Weights:
    """Numbers of a model by what becomes of them."""

    matrices: int
    embedding: int
    head: int
    vectors: int
    adapter: int

    @property
    def model(self) -> int:
        """Without the adapter; a tied output layer counts once."""
        return self.matrices + self.embedding + self.head + self.vectors


def weights(config: ModelConfig, adapter: Adapter | None) -> Weights:
    """Count the weights of a model and of its adapter."""
    per_block = 2 * config.hidden_size
    if config.attention_bias:
        per_block += config.qkv_size + (config.hidden_size if config.output_bias else 0)
    if config.qk_norm:
        per_block += 2 * config.head_dim
    table = head_weights(config)
    head = 0 if config.tie_word_embeddings else table
    low = 0
    if adapter is not None:
        for update in updates(config, adapter.target).values():
            low += sum(adapter.rank * (update.inputs + rows) + (rows if adapter.magnitudes else 0) for rows in update.rows)
    vectors = config.num_hidden_layers * per_block + config.hidden_size
    return Weights(block_weights(config), table, head, vectors, config.num_hidden_layers * low)
