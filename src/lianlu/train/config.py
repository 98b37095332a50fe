"""Fields that every training stage shares: optimiser, schedule, precision, layout, and what happens how often. No torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lianlu.core.config import Aside, Config

Precision = Literal["auto", "float32", "bfloat16"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class GroupRule(Config):
    """What the parameters with some names are trained with; in a list of rules the first that matches a name counts."""

    match: str
    """Regular expression, looked for anywhere in a name such as layers.3.mlp.down.weight."""
    lr: float = Field(default=1.0, ge=0)
    """Factor on the learning rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay, vectors included; left out, it stays what it is."""

    @field_validator("match")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return value


class AnyOptim(Config):
    """What every optimiser has: each trains some of the weights by AdamW."""

    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of AdamW's running mean and of its running square of the gradient."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the running square."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Share of a weight removed each step, times the learning rate; norms and biases are left alone."""
    clip: float = Field(default=1.0, ge=0)
    """Largest global norm of the gradient; 0 turns clipping off."""
    groups: tuple[GroupRule, ...] = ()
    """Rates and weight decay for parameters by name."""


class AdamW(AnyOptim):
    """AdamW with decoupled weight decay: 8 bytes of state for each weight."""

    kind: Literal["adamw"] = "adamw"


class AdamW8(AnyOptim):
    """AdamW with its states in 8 bits: 2 bytes for each weight; vectors and small matrices keep 32 bits."""

    kind: Literal["adamw8"] = "adamw8"
    embedding_bits: Literal[8, 32] = 32
    """Bits of the embedding's states; its gradients are the most uneven, and 32 is what the authors advise."""


class Muon(AnyOptim):
    """Muon for the matrices of the blocks, 4 bytes of state each; AdamW for embedding, output layer, norms and biases.

    Updates have the size of AdamW's, so that rate and weight decay that are good for AdamW are good here.
    """

    kind: Literal["muon"] = "muon"
    adamw_lr: float | None = Field(default=None, gt=0)
    """Highest learning rate of what AdamW trains; left out, the same."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the running mean of the gradient."""
    nesterov: bool = True
    """Look one step ahead along the running mean."""
    newton_schulz_steps: int = Field(default=5, ge=1, le=20)
    """Iterations that make a matrix orthogonal."""
    precision: Precision = "auto"
    """Number type of these iterations: auto is bfloat16 where the processor multiplies it natively, else float32."""


Optim = Annotated[AdamW | AdamW8 | Muon, Field(discriminator="kind")]


class CosineSchedule(Config):
    """Warm-up, then half a cosine down to `final`."""

    kind: Literal["cosine"] = "cosine"
    warmup: Share = 0.03
    """Share of the steps in which the rate climbs linearly."""
    final: Share = 0.1
    """Where the rate ends, as a share of the highest."""


class WsdSchedule(Config):
    """Warm-up, stable, decay: the rate stays at its highest and falls linearly over the last `decay` of the steps.

    With nothing in between, `decay = 1 - warmup`, it is the linear schedule.
    """

    kind: Literal["wsd"] = "wsd"
    warmup: Share = 0.03
    """Share of the steps in which the rate climbs linearly."""
    decay: Share = 0.2
    """Share of the steps in which it falls."""
    final: Share = 0.0
    """Where the rate ends, as a share of the highest."""

    @model_validator(mode="after")
    def _fits(self) -> WsdSchedule:
        if self.warmup + self.decay > 1 + 1e-9:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than all steps")
        return self


class ConstantSchedule(Config):
    """Warm-up, then the highest rate to the end."""

    kind: Literal["constant"] = "constant"
    warmup: Share = 0.03
    """Share of the steps in which the rate climbs linearly."""


Schedule = Annotated[CosineSchedule | WsdSchedule | ConstantSchedule, Field(discriminator="kind")]


class ParallelConfig(Config):
    """How the processes of one run divide the work; one process alone ignores it. docs/scale.md explains the choices."""

    sharding: Literal["none", "gradient", "full"] = "full"
    """What data-parallel processes divide: nothing (every one holds all), gradients and optimiser states, or weights too."""
    shard_size: int = Field(default=0, ge=0)
    """Processes that share one copy of the sharded state; 0 means all of them. Smaller groups are replicas of each other."""
    tensor: int = Field(default=1, ge=1)
    """Processes that divide every matrix (tensor parallel)."""
    sequence: int = Field(default=1, ge=1)
    """Processes that divide the tokens of a micro-batch (Ulysses)."""
    pipeline: int = Field(default=1, ge=1)
    """Processes that divide the layers."""


class CheckpointConfig(Config):
    """When the state of a run is written, and which states are kept."""

    every: int = Field(default=0, ge=0)
    """Steps between states; 0 leaves it to `seconds`."""
    seconds: float = Field(default=30.0, gt=0)
    """Seconds between states at least; longer where writing one takes more than a twentieth of that."""
    keep_last: int = Field(default=1, ge=1)
    """The newest states that are kept."""
    keep_every: int = Field(default=0, ge=0)
    """Besides, the states at multiples of so many steps, also when the run has ended; 0 keeps none."""
    keep_best: bool = False
    """Besides, the state with the best held-out figure, also when the run has ended."""
    asynchronous: bool = False
    """Write beside the training: costs a copy of the state in memory, saves the time."""


class SpikeConfig(Config):
    """When a step is taken for a spike: its data is skipped and reported, the weights stay as they are."""

    skip: bool = True
    """Leave such steps out; otherwise they are only reported."""
    window: int = Field(default=64, ge=8)
    """Steps before it that a step is compared with."""
    deviations: float = Field(default=8.0, gt=0)
    """Robust standard deviations (of the median) above the median that make a spike, in loss or gradient norm."""
    max_in_a_row: int = Field(default=5, ge=1)
    """So many in a row end the run with advice: then it is no spike, it is divergence."""


class TrainConfig(Config):
    """What the loop needs to know, whatever the stage."""

    optim: Optim = AdamW()
    """The optimiser."""
    schedule: Schedule = CosineSchedule()
    """How the learning rate moves."""
    precision: Precision = "auto"
    """Number type of matrix products: auto is bfloat16 where the processor multiplies it natively, else float32."""
    seed: int = Field(default=0, ge=0)
    """Decides the new weights, the order of the data, dropout and samples."""
    eval_every: int = Field(default=0, ge=0)
    """Steps between held-out evaluations; 0 means about five in all, and always one before and one after."""
    sample_every: int = Field(default=0, ge=0)
    """Steps between text samples; 0 means only after the last step."""
    spikes: SpikeConfig = SpikeConfig()
    """What is done about spikes of the loss."""
    micro_tokens: Annotated[int, Aside()] = Field(default=8192, gt=0)
    """Tokens computed at once by one process; decides memory, not results beyond rounding."""
    checkpointing: Annotated[Literal["none", "selective", "full"], Aside()] = "none"
    """Activations computed again in the backward pass: none, all but products and attention, or whole blocks."""
    compile: Annotated[bool, Aside()] = False
    """Compile the blocks with torch.compile."""
    parallel: Annotated[ParallelConfig, Aside()] = ParallelConfig()
    """How several processes divide the work."""
    checkpoint: Annotated[CheckpointConfig, Aside()] = CheckpointConfig()
    """When the state is written, and which states are kept."""
    audit: Annotated[bool, Aside()] = False
    """Compute one step in a while again, every example by itself, and stop if loss or gradient differ."""
    tensorboard: Annotated[bool, Aside()] = False
    """Write TensorBoard events beside metrics.jsonl."""
