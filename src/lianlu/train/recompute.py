"""What the blocks of a model in training keep for the backward pass, and whether they are compiled.

`apply_recompute` trades time for memory: a block forgets what its forward pass made and makes it again when the backward
pass comes to it. `full` forgets all but the block's input. `selective` (Korthikanti et al. 2022, arXiv 2205.05198) keeps the
outputs of matrix products, of attention and of communication, which take long to make, and forgets norms, rotations and
activations. Loss and gradients stay equal to the bit, dropout included: the same operations run on the same numbers.

`compile_blocks` hands the code of a block to torch.compile, once for all blocks and every number of tokens: the axis of
tokens is marked dynamic, and attention, which is handed in and knows the lengths of sequences, stays outside of the graph.
Evaluation and samples run uncompiled.

Both replace `forward` on each block of one model: names of parameters, the class of a block and hooks around it stay what
they were, so that states, adapters and sharding know nothing of it. It goes on the finished model: after adapters were
added, before it is sharded.

Limits: `selective` widens int8 weights again for a product it kept (those in NF4 it does not). In a compiled block it is the
compiler that chooses what to compute again; what attention and the products around it read is kept besides.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from lianlu.core.errors import MissingExtraError
from lianlu.kernels.attention import Attend
from lianlu.model.decoder import Block, CosSin, Decoder
from lianlu.model.lora_linear import LoraLinear
from lianlu.train.config import TrainConfig
from lianlu.train.precision import pick_device

Kind = Literal["none", "selective", "full"]

# Outputs that `selective` keeps: products, attention on any device, and what other processes sent.
KEPT = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::linear",
        "mkldnn::_linear_pointwise",
        "lianlu::nf4_product",
        "lianlu::blocked_attention",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "torch_attn::_varlen_attn",
        "_c10d_functional::all_reduce",
        "_c10d_functional::all_gather_into_tensor",
        "_c10d_functional::all_to_all_single",
        "_c10d_functional::reduce_scatter_tensor",
    }
)


def prepare_blocks(model: Decoder, config: TrainConfig) -> None:
    """Compile the blocks and choose what they keep, in place, as `config` says; the model is otherwise complete.

    Raises: MissingExtraError if blocks are to be compiled and nothing is there to compile them with.
    """
    selective = config.checkpointing == "selective"
    if config.compile:
        compile_blocks(model, selective)
    if not (config.compile and selective):
        apply_recompute(model, config.checkpointing)


def apply_recompute(model: Decoder, kind: Kind) -> None:
    """Let each block keep less for the backward pass, in place: nothing but its input (`full`), or no cheap results."""
    if kind == "none":
        return
    run: Callable[..., Tensor] = partial(checkpoint, use_reentrant=False)
    if kind == "selective":
        run = partial(run, context_fn=partial(create_selective_checkpoint_contexts, _policy))
        for module in model.modules():
            if isinstance(module, LoraLinear):
                # the update is added in place: to a copy, so that what is kept stays what it was
                module.base.register_forward_hook(_copied)
    for block in _blocks(model):
        _replace_forward(block, partial(run, block.forward))


def compile_blocks(model: Decoder, selective: bool = False) -> None:
    """Compile the code of the blocks, in place; it happens at the first step.

    `selective`: compute norms and activations again in the backward pass, where the compiler would keep what products read.
    Raises: MissingExtraError if nothing is there to compile with.
    """
    require_compiler(pick_device())
    torch._functorch.config.ban_recompute_materialized_backward = not selective
    # the number of a layer is a number like another, not a reason to compile its block once more
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    for block in _blocks(model):
        _replace_forward(block, partial(_run_compiled, block))


def require_compiler(device: torch.device) -> None:
    """Raises: MissingExtraError if torch.compile has nothing to compile with for this device."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        message = f"compile = true needs a C++ compiler, and there is no {compiler} on the path"
        raise MissingExtraError(message, hint="install one (apt install g++), name it in CXX, or set compile = false")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        message = f"compile = true needs Python's headers, and there is no {headers}"
        raise MissingExtraError(message, hint="install them (apt install python3-dev), or set compile = false")
    if device.type == "cuda" and find_spec("triton") is None:
        raise MissingExtraError("compile = true needs triton on a GPU", hint="pip install triton, or set compile = false")


def _blocks(model: Decoder) -> list[Block]:
    return [block for block in model.layers if isinstance(block, Block)]


def _replace_forward(block: Block, forward: Callable[..., Tensor]) -> None:
    """Only what `block(...)` runs inside its hooks; an entry of the instance, so that the class stays as it is."""
    vars(block)["forward"] = forward


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op.name() in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _copied(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.clone()


@cache
def _compiled() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The code of a block, compiled, and attention that the compiler leaves alone."""
    # dropout has to draw what it draws uncompiled
    block = torch.compile(Block.forward, options={"fallback_random": True})
    leave_alone: Callable[..., Callable[..., Tensor]] = torch.compiler.disable
    return block, leave_alone(_attended)


def _attended(attend: Attend, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
    o_THK = attend(layer, q_THK, k_TGK, v_TGK)
    torch._dynamo.maybe_mark_dynamic(o_THK, 0)
    return o_THK


def _run_compiled(block: Block, x_TD: Tensor, rotation: CosSin, attend: Attend) -> Tensor:
    """The block, compiled where gradients are wanted; a single token would be compiled by itself and is not worth it."""
    if len(x_TD) == 1 or not torch.is_grad_enabled():
        return Block.forward(block, x_TD, rotation, attend)
    if not x_TD.requires_grad:
        # behind a frozen embedding: one product more, instead of a second compiled form for the first block
        x_TD = x_TD.detach().requires_grad_()
    for tensor in (x_TD, *rotation):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    run, attended = _compiled()
    return run(block, x_TD, rotation, partial(attended, attend))
