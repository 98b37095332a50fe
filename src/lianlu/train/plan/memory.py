"""Memory of a training run on one device, by class and by moment. Imports no torch.

Not everything is there at once: activations are at their fullest when the loss is computed, gradients when the backward pass
is through. So each class is counted at five moments of a step, and the peak is the largest sum:

    loss          activations of all blocks, a block of logits; gradients of earlier micro-batches
    output layer  activations of all blocks, the gradient of the output layer, scaled in place
    last block    the backward pass comes to the last block: its activations made again if they were not kept, its work
    first block   the same for the first block: gradients of all the others are there, activations gone
    gradients     all gradients; the optimiser's step needs no more than this

On a CPU the peak is that of the process: the runtime (Python, PyTorch, the libraries' own buffers) and what the allocator
cannot give back belong to it. On a GPU it is what PyTorch allocates there (`torch.cuda.max_memory_allocated`); layouts.py
leaves room for what the driver and the allocator take besides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lianlu.train.plan.activations import adapter_copies, all_of_block, kept_by_block, last_tensors, outer_tensors
from lianlu.train.plan.setting import Setting, Weights, weights

# Bytes of optimiser states a trained weight: two fp32 moments; two of 8 bits with an fp32 scale for each block of 256;
# one fp32 momentum for matrices (the rest as adamw).
STATE_BYTES = {"adamw": 8.0, "adamw8": 2.0 + 8 / 256, "muon": 4.0}
# NF4: 4 bits, and for each block of 64 weights 8 bits of scale with an fp32 scale for each 256 of those (Dettmers et al. 2023)
NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
NF4_SINGLE_BYTES = 0.5 + 4 / 64
# Python, PyTorch and the libraries with their buffers; and what the C library's allocator holds besides, as a share of all
# that comes and goes in a step: freed pieces between others that are still in use. Measured by bench/plan.py.
RUNTIME_BYTES = 450_000_000
SLACK = 0.175
GPU_RUNTIME_BYTES = 80_000_000
WIDE = 4
# kernels/nf4.py: weights widened at once
NF4_SLICE = 1 << 23
# kernels/cross_entropy.py: rows of logits that are computed at once, and widened at once
CACHED_WEIGHTS, SMALL_BLOCK, LARGE_BLOCK = 1 << 22, 128, 512
FROZEN_LOGITS, WIDE_ROWS = 1 << 24, 32
MOMENTS = ("loss", "output layer", "last block", "first block", "gradients")
Bytes = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Class:
    """One class of memory: what it is made of, and its bytes at each of MOMENTS."""

    name: str
    made_of: str
    at: Bytes


@dataclass(frozen=True)
class Memory:
    """The classes of one device."""

    classes: tuple[Class, ...]

    def at(self, moment: int) -> int:
        """Bytes in all at one of MOMENTS."""
        return int(sum(row.at[moment] for row in self.classes))

    @property
    def peak_moment(self) -> int:
        """Index of the moment with the largest sum."""
        return max(range(len(MOMENTS)), key=self.at)

    @property
    def peak_bytes(self) -> int:
        """The largest sum."""
        return self.at(self.peak_moment)


def memory(setting: Setting) -> Memory:
    """What one device of a run needs."""
    need = _Need(setting, weights(setting.model, setting.adapter))
    lasting = (*need.weights(), need.states())
    passing = (need.copies(), need.gradients(), need.activations(), need.logits(), need.working())
    parts = tuple(part for part in (*lasting, *passing) if any(part.at))
    if setting.gpu:
        return Memory((*parts, _always("runtime", "workspaces of the libraries", GPU_RUNTIME_BYTES)))
    held = SLACK * _if_all_were_kept(setting)
    return Memory((*parts, _always("runtime", "Python, PyTorch, what the allocator holds back", RUNTIME_BYTES + held)))


def _if_all_were_kept(setting: Setting) -> int:
    """The most that comes and goes in a step without activation checkpointing: what is made again leaves pieces as well."""
    kept = replace(setting, checkpointing="none")
    need = _Need(kept, weights(setting.model, setting.adapter))
    return Memory((need.copies(), need.gradients(), need.activations(), need.logits(), need.working())).peak_bytes


def _always(name: str, made_of: str, size: float) -> Class:
    return Class(name, made_of, (size,) * 5)


class _Need:
    """The classes of one setting; sizes are those of one device of its division."""

    def __init__(self, setting: Setting, count: Weights) -> None:
        self.setting, self.count, self.model = setting, count, setting.model
        division = setting.division
        # tensor parallel divides every matrix, a pipeline the blocks; output layer and embedding stay with one stage
        self.split = division.tensor
        self.layers = setting.model.num_hidden_layers / division.pipeline
        self.matrices = count.matrices / division.pipeline / self.split
        self.outer = (count.embedding + count.head) / self.split
        self.tokens = setting.micro_tokens / division.sequence
        # how many devices share gradients and states, and weights
        self.shards = 1 if division.sharding == "none" else division.num_shards
        self.weight_shards = division.num_shards if division.sharding == "full" else 1
        self.vectors = count.vectors / division.pipeline
        adapter = count.adapter / division.pipeline / self.split
        self.trained = adapter if setting.adapter else self.matrices + self.outer + self.vectors
        self.table = self.model.vocab_size * self.model.hidden_size / self.split

    def weights(self) -> list[Class]:
        """Frozen and trained weights."""
        adapter = self.setting.adapter
        trained = WIDE * self.trained / self.shards
        if adapter is None:
            return [_always("weights, trained", "fp32", trained)]
        kind = "blocks in NF4" if adapter.quantised else ("bf16" if self.setting.width == 2 else "fp32")
        made_of = {"fp32": kind, "bf16": "bf16, embedding and norms fp32"}.get(kind, f"{kind}, the rest as products want it")
        own = f"fp32 adapter, {self.count.adapter / 1e6:.2f} M"
        frozen = _always("weights, frozen", made_of, self._frozen() / self.shards)
        return [frozen, _always("weights, trained", own, trained)]

    def _frozen(self) -> float:
        return self._frozen_blocks() + self._frozen_outer()

    def _frozen_blocks(self) -> float:
        adapter = self.setting.adapter
        nf4 = NF4_BYTES if adapter is not None and adapter.double_quant else NF4_SINGLE_BYTES
        return (nf4 if self._quantised() else self.setting.width) * self.matrices

    def _frozen_outer(self) -> float:
        """The embedding stays fp32 (not under QLoRA), an output layer of its own is held as products want it."""
        head = self.count.head / self.split
        table = self.setting.width if self._quantised() else WIDE
        return self.setting.width * head + table * (self.outer - head) + WIDE * self.vectors

    def _quantised(self) -> bool:
        return self.setting.adapter is not None and self.setting.adapter.quantised

    def copies(self) -> Class:
        """Weights in the number type of products: autocast's, gathered from other devices, adapters as they are applied."""
        size, outer, made_of = 0.0, 0.0, "bf16 for products"
        if self.setting.width == 2 and self.setting.adapter is None:
            size = 2 * self.matrices
        if self.shards > 1:
            made_of = "gathered from other devices"
            size = self.setting.width * self.matrices if self.setting.adapter is None else self._frozen_blocks()
            outer = self.setting.width * self.outer if self.setting.adapter is None else self._frozen_outer()
        one = size / self.layers
        if self.weight_shards > 1:
            # the block at work and the next
            size = min(2 * one, size)
        late = size if self.setting.checkpointing == "none" or self.shards > 1 else one
        own = adapter_copies(self.setting) / self.split / self.setting.division.pipeline
        if own:
            made_of = "adapters as applied" + (f", {made_of}" if self.shards > 1 else "")
        kept = own if self.setting.checkpointing == "none" else own / self.layers
        at = (size + outer + kept, late + outer + kept, late + outer + kept, one + outer + own / self.layers, 0.0)
        return Class("weights, copies", made_of, at)

    def gradients(self) -> Class:
        """Sums over micro-batches in fp32."""
        full = WIDE * self.trained / self.shards
        early = full if self.setting.accumulates else 0.0
        first = early or full - WIDE * self.matrices / self.layers / self.shards * (self.setting.adapter is None)
        # of a tied table, the part of the embedding is made beside that of the output layer
        twice = WIDE * self.table if self.model.tie_word_embeddings and self.setting.adapter is None else 0.0
        return Class("gradients", "fp32", (early, early, early, first, full + twice))

    def states(self) -> Class:
        """What the optimiser remembers, and the copy that asynchronous saving holds."""
        kind, others = self.setting.optimizer, 0.0
        if kind == "muon" and self.setting.adapter is None:
            others = (STATE_BYTES["adamw"] - STATE_BYTES["muon"]) * self.outer
        states = (STATE_BYTES.get(kind, STATE_BYTES["adamw"]) * self.trained + others) / self.shards
        copy = states + WIDE * self.trained / self.shards if self.setting.async_states else 0.0
        return _always("optimiser states", kind + (", and a copy being saved" if copy else ""), states + copy)

    def activations(self) -> Class:
        """What the forward pass keeps; a stage of a pipeline holds as many micro-batches as there are stages."""
        pipeline = self.setting.division.pipeline
        one = kept_by_block(self.setting) * self.tokens
        outer = sum(outer_tensors(self.setting).values()) * self.tokens
        early = outer - sum(last_tensors(self.setting).values()) * self.tokens
        blocks = self.layers * one * pipeline
        kept = {"none": "all kept", "selective": "products kept", "full": "inputs of blocks kept"}[self.setting.checkpointing]
        made_of = f"{self.setting.micro_tokens:,} tokens, {kept}"
        return Class("activations", made_of, (blocks + outer, blocks + outer, blocks + early, one + early, 0.0))

    def logits(self) -> Class:
        """The block of logits at work, the weight as it is used, its gradient, and the hidden states before it."""
        setting, half = self.setting, self.setting.width
        trained = setting.adapter is None
        rows = min(self._block_rows(frozen=not trained), max(round(setting.micro_tokens * setting.target_share), 1))
        block = rows * self.model.vocab_size / self.split
        hidden = self.tokens * self.model.hidden_size
        used = 0.0
        if half == 2:
            narrow = not trained and (self._quantised() or not self.model.tie_word_embeddings)
            used = 2 * hidden * setting.target_share + (0 if narrow else 2 * self.table)
        widened = WIDE * min(rows, WIDE_ROWS) * self.model.vocab_size / self.split if half == 2 else 0.0
        product = self.table * (half + WIDE if half == 2 else WIDE) if trained else 0.0
        working = half * block + max(widened, product)
        gradient = WIDE * self.table if trained else 0.0
        made_of = f"{rows} rows of {self.model.vocab_size:,}" + (", gradient of the output layer" if trained else "")
        later = 0.0 if setting.accumulates else gradient
        return Class("logits", made_of, (working + used + WIDE * hidden + gradient, gradient, later, 0.0, 0.0))

    def _block_rows(self, frozen: bool) -> int:
        if self.table <= CACHED_WEIGHTS:
            return SMALL_BLOCK
        fitting = max(WIDE_ROWS, FROZEN_LOGITS // self.model.vocab_size // WIDE_ROWS * WIDE_ROWS)
        return min(LARGE_BLOCK, fitting) if frozen else LARGE_BLOCK

    def working(self) -> Class:
        """What one block needs in the backward pass: what it did not keep, made again, and the gradients inside it."""
        setting = self.setting
        again = self.tokens * (all_of_block(setting) - kept_by_block(setting)) if setting.checkpointing != "none" else 0.0
        half = self.tokens * self.model.intermediate_size * setting.width / self.split
        # the gradients of gate and up are made from that of their product; then comes the product with their weights
        inside = 3 * half
        if self._quantised():
            widened = min(NF4_SLICE, 2 * self.model.intermediate_size * self.model.hidden_size) * setting.width
            inside = max(inside, 2 * half + widened)
        size = again + inside + WIDE * self.tokens * self.model.hidden_size
        made_of = "gradients inside a block" + (", made again what it did not keep" if again else "")
        return Class("working space", made_of, (0.0, 0.0, size, size, 0.0))
