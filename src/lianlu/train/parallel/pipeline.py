"""Pipeline parallelism: each process holds some consecutive layers, micro-batches pass through them one after another.

The first stage has the embedding, the last the final norm, the output layer and the loss. A stage is the decoder itself in
which what other stages hold is replaced by modules that do nothing, so that parameters keep their names and states fit any
layout. The order of work is 1F1B (Narayanan et al. 2019), by torch.distributed.pipelining: after its first forward passes a
stage alternates between one forward and one backward pass, and keeps activations of as many micro-batches as stages follow.

Every process knows the whole step, so only hidden states travel forward and their gradients back. Micro-batches have different
numbers of tokens, but what travels has the length of the longest of a step; the rest is zeros that nobody computes with.

Limits: with M micro-batches and P stages the processes stand still for (P - 1) / (M + P - 1) of a step, so M should be several
times P (`micro_tokens` decides M). Buffers for what travels are made for all micro-batches of a step. A tied output layer would
be on two stages, and is refused; so are adapters.

Shapes: T tokens of a micro-batch, L tokens of the longest of a step, D hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional as F

from lianlu.core.errors import ConfigError
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import Decoder
from lianlu.model.lora_linear import LoraLinear
from lianlu.train.packing import packed_hidden
from lianlu.train.precision import mixed

Loss = Callable[[Any, Any], Tensor]
SEEDS = 1 << 63


def layers_of_stages(config: ModelConfig, num_stages: int) -> list[range]:
    """The layers of each stage, so that the slowest is as fast as can be; the output layer counts as what it costs in layers.

    Raises: ConfigError if there are fewer layers than stages.
    """
    num_layers = config.num_hidden_layers
    if num_layers < num_stages:
        message = f"parallel.pipeline {num_stages} is more than the model's {num_layers} layers"
        raise ConfigError(message, hint=f"choose at most {num_layers}")
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    head = config.vocab_size * width / (width * (config.qkv_size + heads + 3 * config.intermediate_size))

    def slowest(last: int) -> float:
        return max(-(-(num_layers - last) // (num_stages - 1)), last + head)

    last = min(range(1, num_layers - num_stages + 2), key=lambda number: (slowest(number), -number))
    each, more = divmod(num_layers - last, num_stages - 1)
    # early stages keep activations of more micro-batches, so later ones take what is left over
    counts = [each] * (num_stages - 1 - more) + [each + 1] * more + [last]
    ends = [sum(counts[: number + 1]) for number in range(num_stages)]
    return [range(end - count, end) for count, end in zip(counts, ends, strict=True)]


class Elsewhere(nn.Module):
    """Stands for a module of another stage: what comes in goes out."""

    def __init__(self, stage: Pipeline) -> None:
        super().__init__()
        self.stage = stage
        # who writes a model asks its norm for the number type
        self.weight = torch.empty(0)

    def forward(self, x_TD: Tensor, *_: Any) -> Tensor:
        """`x_TD` itself."""
        return x_TD


class Received(nn.Module):
    """Stands for the embedding on all stages but the first: gives what the stage before has sent."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.weight = torch.empty(0, device=device)
        self.x_TD = self.weight

    def forward(self, ids_T: Tensor) -> Tensor:
        """x_TD of the stage before."""
        x_TD, self.x_TD = self.x_TD, self.weight
        return x_TD


class Pipeline:
    """This process's stage among those of `mesh` (of one axis); products are computed in `dtype`."""

    def __init__(self, mesh: DeviceMesh, device: torch.device, dtype: torch.dtype) -> None:
        self._group, self._device, self._dtype = mesh.get_group(), device, dtype
        self.number, self.count = mesh.get_local_rank(), mesh.size()
        self.is_first, self.is_last = self.number == 0, self.number == self.count - 1

    def cut(self, model: Decoder) -> None:
        """Leave in the model only what this stage holds, in place. Raises: ConfigError for one that cannot be divided so."""
        hint = 'set parallel.pipeline = 1: sharding = "full" divides what the processes hold'
        if model.lm_head is None:
            message = "a model whose output layer is the embedding cannot be divided into stages"
            raise ConfigError(message, hint=f"{hint}; a new model may have tie_word_embeddings = false")
        if any(isinstance(module, LoraLinear) for module in model.modules()):
            raise ConfigError("adapters cannot be trained in pipeline stages", hint=hint)
        own = layers_of_stages(model.config, self.count)[self.number]
        for number in set(range(len(model.layers))) - set(own):
            model.layers[number] = Elsewhere(self)
        gone: dict[str, nn.Module] = {} if self.is_first else {"embed_tokens": Received(self._device)}
        if not self.is_last:
            gone |= {"norm": Elsewhere(self), "lm_head": Elsewhere(self)}
        for name, module in gone.items():
            setattr(model, name, module)

    def accumulate(self, model: Any, batches: Sequence[Any], loss: Loss, before: Callable[[int], None]) -> float:
        """Add the gradients of the summed loss over packed micro-batches; returns the sum on the last stage, 0 on others.

        `before` is called with the number of a micro-batch when its backward pass begins. All stages have to be given the
        same micro-batches.
        """
        # stages draw from streams of their own, or layers at the same place of two of them would drop the same
        torch.manual_seed((torch.initial_seed() + self.number) % SEEDS)
        return self._pass(_Step(self, model, batches, loss, before), backward=True)

    def evaluate(self, model: Any, batches: Sequence[Any], loss: Loss) -> float:
        """The summed loss over packed micro-batches, without gradients: on the last stage; 0 on others."""
        with torch.no_grad():
            return self._pass(_Step(self, model, batches, loss), backward=False)

    def gathered(self, own: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of all stages in order, given those of this one; all stages have to take all of them."""
        rest = iter(own)
        for number in range(self.count):
            while True:
                name, tensor = next(rest, ("", None)) if number == self.number else ("", None)
                head: list[Any] = [name, None if tensor is None else (tensor.shape, tensor.dtype)]
                dist.broadcast_object_list(head, group_src=number, group=self._group, device=self._device)
                if head[1] is None:
                    break
                shape, dtype = head[1]
                held = torch.empty(shape, dtype=dtype) if tensor is None else tensor
                held = held.to(self._device).contiguous()
                dist.broadcast(held, group_src=number, group=self._group)
                yield head[0], held.cpu()

    def mixed(self) -> AbstractContextManager[object]:
        """What forward passes are computed in."""
        return mixed(self._dtype, self._device)

    def _pass(self, step: _Step, backward: bool) -> float:
        if not step.batches:
            return 0.0
        numbers = torch.arange(len(step.batches))
        longest, width = max(batch.num_tokens for batch in step.batches), step.model.config.hidden_size
        sent_LD = torch.empty(longest, width, device="meta", requires_grad=backward)
        loss = torch.empty((), device="meta", requires_grad=backward)
        stage = PipelineStage(
            *(_Stage(step.run), self.number, self.count, self._device),
            input_args=() if self.is_first else (sent_LD,),
            output_args=loss if self.is_last else sent_LD,
            group=self._group,
        )
        # 1F1B wants as many micro-batches as stages; of fewer, all are in flight at once anyway
        kind = Schedule1F1B if len(step.batches) >= self.count else ScheduleGPipe
        schedule = kind(stage, len(step.batches), loss_fn=_as_it_is, scale_grads=False)
        losses: list[Tensor] = []
        target = numbers if self.is_last else None
        run = schedule.step if backward else schedule.eval
        run(number=numbers, target=target, losses=losses, return_outputs=False)
        return float(torch.stack(losses).double().sum()) if losses else 0.0


@dataclass
class _Step:
    """The micro-batches of one step, on their way through this process's stage."""

    stage: Pipeline
    model: Any
    batches: Sequence[Any]
    loss: Loss
    before: Callable[[int], None] | None = None

    def run(self, number: int, received_LD: Tensor | None) -> Tensor:
        """One forward pass: the loss on the last stage, on others what is sent on."""
        batch = self.batches[number]
        if received_LD is not None:
            self.model.embed_tokens.x_TD = received_LD[: batch.num_tokens]
        with self.stage.mixed():
            made = self.loss(self.model, batch) if self.stage.is_last else self._hidden(batch)
        if made.requires_grad:
            torch.autograd.graph.register_multi_grad_hook((made,), partial(self._begin, number))
        return made

    def _hidden(self, batch: Any) -> Tensor:
        x_TD = packed_hidden(self.model, batch)
        longest = max(other.num_tokens for other in self.batches)
        return F.pad(x_TD.float(), (0, 0, 0, longest - batch.num_tokens))

    def _begin(self, number: int, _: Any) -> None:
        if self.before is not None:
            self.before(number)


class _Stage(nn.Module):
    """What torch.distributed.pipelining calls; the model is not among its modules, so that nobody reaches into it."""

    def __init__(self, run: Callable[[int, Tensor | None], Tensor]) -> None:
        super().__init__()
        self._run = run

    def forward(self, *received_LD: Tensor, number: Tensor) -> Tensor:
        """What is sent on, or the loss of the micro-batch."""
        return self._run(int(number), received_LD[0] if received_LD else None)


def _as_it_is(loss: Tensor, _: Any) -> Tensor:
    return loss


def stage_of(model: nn.Module) -> Pipeline | None:
    """The stage that a model was cut down to, if it was."""
    return next((module.stage for module in model.modules() if isinstance(module, Elsewhere)), None)
