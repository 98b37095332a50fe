"""A few tokens of text out of a model in training, without a cache: enough for samples, not for serving.

Shapes: T tokens, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch

from lianlu.kernels.attention import PackedCausal
from lianlu.model.decoder import Decoder
from lianlu.train.parallel.vocab import last_logits


@torch.no_grad()
def generate(
    model: Decoder, prompt: Sequence[int], num_tokens: int, temperature: float = 0.0, seed: int = 0, ends: Container[int] = ()
) -> list[int]:
    """Up to `num_tokens` ids after `prompt`, greedy at temperature 0; an id in `ends` stops and is left out.

    At the length the model was trained for, generation stops too.
    """
    generator = torch.Generator().manual_seed(seed)
    device = model.embed_tokens.weight.device
    ids = list(prompt)
    limit = min(len(ids) + num_tokens, model.config.max_position_embeddings)
    while len(ids) < limit:
        input_ids_T = torch.tensor(ids, device=device)
        positions_T = torch.arange(len(ids), device=device)
        hidden_TD = model.hidden(input_ids_T, positions_T, PackedCausal([0, len(ids)]))
        logits_V = last_logits(model, hidden_TD[-1:])[0].float().cpu()
        if temperature > 0:
            chosen = int(torch.multinomial(torch.softmax(logits_V / temperature, dim=0), 1, generator=generator))
        else:
            chosen = int(logits_V.argmax())
        if chosen in ends:
            break
        ids.append(chosen)
    return ids[len(prompt) :]
