"""What the forward pass leaves behind for the backward pass, tensor by tensor, in bytes. Imports no torch.

It follows `kernels/` and `model/decoder.py` line by line (what each op gives to `save_for_backward`, and which views keep a
larger tensor alive); tests compare it with what PyTorch really allocates.

The stream between blocks is fp32; products run in the number type of the run. Attention keeps queries, keys, the fused qkv
(its values are a view of it), its output and a number a head and token. In bf16 on a CPU it keeps queries, keys and values
alone; sequences of up to 96 tokens are widened for it, which leaves them and its output in fp32 instead.
"""

from __future__ import annotations

from lianlu.train.plan.setting import Setting, updates

WIDE = 4
# kernels/attention.py WIDENED_TOKENS: it cannot be imported without torch
WIDENED_TOKENS = 96
WHOLE = ("norm inputs", "input of wqkv", "input of gate_up", "block input")


def block_tensors(setting: Setting) -> dict[str, float]:
    """Bytes a token of one block without activation checkpointing, by name."""
    model, width = setting.model, setting.width
    query = model.num_attention_heads * model.head_dim
    adapted = None if setting.adapter is None else updates(model, setting.adapter.target)

    def wanted(layer: str, inputs: int) -> float:
        """A product keeps its inputs for the gradient of its weight, or of its adapter."""
        return width * inputs if adapted is None or layer in adapted else 0

    found: dict[str, float] = {
        "norm inputs": 2 * (WIDE * model.hidden_size + WIDE),
        "input of wqkv": wanted("wqkv", model.hidden_size),
        **_attention(setting),
        "input of wo": wanted("wo", query),
        "input of gate_up": wanted("gate_up", model.hidden_size),
        "gate and up": width * 2 * model.intermediate_size,
        "input of down": wanted("down", model.intermediate_size),
    }
    if adapted is not None and setting.adapter is not None:
        ranks = sum(setting.adapter.rank * len(update.rows) for update in adapted.values())
        found["adapter"] = width * ranks
        if setting.adapter.magnitudes:
            found["directions"] = sum(width * update.outputs for update in adapted.values())
        if setting.adapter.dropout:
            found["dropout"] = sum(WIDE * update.inputs for update in adapted.values())
    return found


def selective_tensors(setting: Setting) -> dict[str, float]:
    """Bytes a token of one block whose products and attention alone are kept."""
    model, width = setting.model, setting.width
    query = model.num_attention_heads * model.head_dim
    outputs = model.qkv_size + 2 * model.intermediate_size + 2 * model.hidden_size
    found: dict[str, float] = {
        "block input": WIDE * model.hidden_size,
        "products": width * outputs,
        "attention": width * query + WIDE * model.num_attention_heads,
    }
    if setting.adapter is not None:
        own = updates(model, setting.adapter.target).values()
        found["adapter"] = width * sum(setting.adapter.rank * len(update.rows) + update.outputs for update in own)
    return found


def kept_by_block(setting: Setting) -> float:
    """Bytes a token that one block keeps until the backward pass reaches it."""
    if setting.checkpointing == "full":
        return WIDE * setting.model.hidden_size
    return _a_device(selective_tensors(setting), setting) if setting.checkpointing == "selective" else all_of_block(setting)


def all_of_block(setting: Setting) -> float:
    """Bytes a token that one block keeps if nothing is to be made again."""
    return _a_device(block_tensors(setting), setting)


def _a_device(tensors: dict[str, float], setting: Setting) -> float:
    """Tensor parallel devices hold all of what every one of them needs whole, and their part of the rest."""
    return sum(size / (1 if name in WHOLE else setting.division.tensor) for name, size in tensors.items())


def outer_tensors(setting: Setting) -> dict[str, float]:
    """Bytes a token that are kept outside of the blocks; behind a frozen embedding the first norm keeps nothing."""
    model = setting.model
    found = {"ids, positions": 8.0 * 5, "cosines and sines": 2.0 * WIDE * model.head_dim, **last_tensors(setting)}
    if setting.adapter is not None and setting.checkpointing == "none":
        found["first norm"] = -WIDE * (model.hidden_size + 1)
    return found


def last_tensors(setting: Setting) -> dict[str, float]:
    """Bytes a token that are let go before the backward pass comes to the last block."""
    hidden = setting.model.hidden_size
    gradient = setting.width * hidden * setting.target_share
    return {"final norm": WIDE * hidden + WIDE, "gradient of the last hidden state": gradient}


def adapter_copies(setting: Setting) -> int:
    """Bytes of the stacked matrices that the adapters of all blocks are applied as."""
    if setting.adapter is None:
        return 0
    rank = setting.adapter.rank
    sizes = (rank * len(u.rows) * (u.inputs + u.outputs) for u in updates(setting.model, setting.adapter.target).values())
    return setting.width * setting.model.num_hidden_layers * sum(sizes)


def _attention(setting: Setting) -> dict[str, float]:
    model, width = setting.model, setting.width
    query, key = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    if _blocked(setting):
        found: dict[str, float] = {"queries, keys, values": width * (query + 2 * key)}
        return found | _head_norms(setting)
    if _widened(setting):
        found = {"queries, keys, values": WIDE * (query + 2 * key)}
    else:
        found = {"queries, keys": width * (query + key), "qkv": width * model.qkv_size}
    # of a single sequence, the output is laid out as the next product wants it: the two are one tensor
    apart = _joined(setting) or (setting.adapter is not None and "wo" not in updates(model, setting.adapter.target))
    found["attention output"] = WIDE * query if _widened(setting) else width * query if apart else 0
    found["attention sums"] = WIDE * model.num_attention_heads
    if model.qk_norm and width < WIDE and "queries, keys" in found:
        # the norms hand out fp32, and what attention casts back has a key for every query head
        found["queries, keys"] = width * 2 * query
    return found | _head_norms(setting)


def _head_norms(setting: Setting) -> dict[str, float]:
    """Norms of heads keep the fused qkv, which their inputs are views of, and a number a head."""
    model = setting.model
    if not model.qk_norm:
        return {}
    heads = model.num_attention_heads + model.num_key_value_heads
    return {"qkv": setting.width * model.qkv_size, "head norms": WIDE * heads}


def _joined(setting: Setting) -> bool:
    """Whether a micro-batch holds several sequences, whose outputs are joined."""
    return setting.sequence < setting.micro_tokens


def _widened(setting: Setting) -> bool:
    return not setting.gpu and setting.precision == "bfloat16" and setting.sequence <= WIDENED_TOKENS


def _blocked(setting: Setting) -> bool:
    """Whether `kernels/blocked_attention.py` does the work."""
    return not setting.gpu and setting.precision == "bfloat16" and not _widened(setting)
