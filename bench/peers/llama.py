"""llama.cpp as a peer: a process of its own that answers lines of JSON with seconds.

Runs in the environment that `llama.sh` makes, and imports nothing of lianlu. Requests, one a line:

    {"quantize": FILE, "to": FILE, "type": "f32" | "bf16" | "q8_0"}    -> {}
    {"load": FILE, "threads": 2, "context": 8192}                      -> {}
    {"prompts": [[ids], ...], "new": 48}                               -> {"prompt_s": ..., "decode_s": ...}

Prompts are decoded as parallel sequences of one batch, greedy, end tokens ignored; `prompt_s` runs to the first token of all.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp as llama
import numpy as np

TYPES = {"f32": 0, "q8_0": 7, "bf16": 32}


class Peer:
    """A model and a context."""

    def __init__(self, file: str, threads: int, context: int) -> None:
        wanted = llama.llama_model_default_params()
        self.model = llama.llama_model_load_from_file(file.encode(), wanted)
        settings = llama.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = context, 2048, 512, 64
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = True
        self.context = llama.llama_init_from_model(self.model, settings)
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.batch = llama.llama_batch_init(context, 0, 1)

    def run(self, prompts: list[list[int]], new: int) -> dict[str, float]:
        """Seconds to the first token of all prompts, and for the other `new` - 1."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        began = time.perf_counter()
        last = [self._prompt(number, ids) for number, ids in enumerate(prompts)]
        first = time.perf_counter()
        for step in range(new - 1):
            rows = [(token, len(ids) + step, number) for number, (token, ids) in enumerate(zip(last, prompts, strict=True))]
            self._decode(rows, all_rows=True)
            last = [self._best(row) for row in range(len(rows))]
        return {"prompt_s": first - began, "decode_s": time.perf_counter() - first}

    def _prompt(self, number: int, ids: list[int]) -> int:
        for begin in range(0, len(ids), 2048):
            part = ids[begin : begin + 2048]
            self._decode([(token, begin + place, number) for place, token in enumerate(part)], all_rows=False)
        return self._best(-1)

    def _decode(self, rows: list[tuple[int, int, int]], all_rows: bool) -> None:
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = all_rows or index == len(rows) - 1
        if llama.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def _best(self, row: int) -> int:
        logits = llama.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax())


def quantize(file: str, target: str, kind: str) -> None:
    """Write the model of `file` in another type."""
    wanted = llama.llama_model_quantize_default_params()
    wanted.ftype, wanted.allow_requantize, wanted.pure, wanted.nthread = TYPES[kind], True, True, 2
    if llama.llama_model_quantize(file.encode(), target.encode(), ctypes.byref(wanted)) != 0:
        raise RuntimeError(f"cannot write {target}")


def answer(asked: dict[str, Any], peer: list[Peer]) -> dict[str, float]:
    """Do what one line asks for."""
    if "quantize" in asked:
        quantize(asked["quantize"], asked["to"], asked["type"])
        return {}
    if "load" in asked:
        peer[:] = [Peer(asked["load"], asked["threads"], asked["context"])]
        return {}
    return peer[0].run(asked["prompts"], asked["new"])


@llama.llama_log_callback
def _silent(_level: int, _text: bytes, _data: Any) -> None:
    pass


def main() -> None:
    """Answer until the input ends."""
    llama.llama_log_set(_silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    peer: list[Peer] = []
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), peer)), flush=True)


if __name__ == "__main__":
    main()
