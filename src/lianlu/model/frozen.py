"""The weights below an adapter, held narrow: they are only multiplied by, so they need no more digits than the products have.

Matrices of linear layers are in the number type of the products (or quantised): that is what autocast would make of them at
every use. Under QLoRA the embedding and the output layer are as well. Norms and biases stay fp32, and so does the stream of
activations: a narrow embedding hands out its rows in fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lianlu.model.decoder import Decoder
from lianlu.model.lora_linear import FUSED

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


class NarrowEmbedding(nn.Embedding):
    """Rows of a table of any number type, handed out in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """Rows by id."""
        return super().forward(input).float()


def frozen_dtypes(dtype: torch.dtype, tables: bool) -> Callable[[str], torch.dtype]:
    """The number type of a frozen weight by its name: `dtype` for matrices, with `tables` for the embedding too, else fp32."""

    def wanted(name: str) -> torch.dtype:
        module, _, kind = name.rpartition(".")
        matrix = name == HEAD or (kind == "weight" and module.split(".", 2)[-1] in FUSED)
        return dtype if matrix or (tables and name == EMBEDDING) else torch.float32

    return wanted


def hold_frozen(model: Decoder, dtype: torch.dtype, tables: bool) -> None:
    """Bring the weights of a model into the number types of `frozen_dtypes`, in place; it may be on `meta`."""
    wanted = frozen_dtypes(dtype, tables)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(wanted(name))
    if model.embed_tokens.weight.dtype != torch.float32:
        table_VD = model.embed_tokens.weight
        with torch.device("meta"):
            model.embed_tokens = NarrowEmbedding(*table_VD.shape)
        model.embed_tokens.weight = table_VD
