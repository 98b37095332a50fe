"""Bits per byte are transformers' loss over the same ids, whole and in pieces with a stride; SmolLM2 foresees text in context."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from lianlu.data.filters.checkpoint_model import CheckpointModel
from lianlu.data.filters.perplexity import spread

END = "<|endoftext|>"
TEXT = "\n".join(f"Line {n} of a text: the {'quick brown fox' if n % 3 else 'lazy dog'} and 汉字 {n * n}." for n in range(60))


@pytest.fixture(scope="module", params=["Llama", "Qwen2"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Library, Path]:
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp(request.param)
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet))
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=320,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.15,
        eos_token_id=0,
        bos_token_id=None,
    )
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(folder)
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return theirs, library, folder


def loss_bits(theirs: Any, ids: list[int], first: int) -> float:
    """Summed loss of `ids[first:]`, as transformers counts it."""
    labels = torch.tensor([[-100] * first + ids[first:]])
    with torch.inference_mode():
        mean = theirs(torch.tensor([ids]), labels=labels).loss
    return float(mean) * (len(ids) - first) / math.log(2)


def test_a_whole_text(both: tuple[Any, Library, Path]) -> None:
    theirs, library, folder = both
    expected = loss_bits(theirs, [0, *library.encode(TEXT).ids], 1) / len(TEXT.encode())
    assert CheckpointModel(folder, piece_bytes=8192).bits_per_byte(TEXT) == pytest.approx(expected, rel=1e-5)


def test_pieces_with_a_stride(both: tuple[Any, Library, Path]) -> None:
    theirs, library, folder = both
    total = size = 0.0
    for before, piece in spread(TEXT, 512, 256, 4):
        context = [0, *library.encode(before).ids]
        total += loss_bits(theirs, [*context, *library.encode(piece).ids], len(context))
        size += len(piece.encode())
    assert CheckpointModel(folder, piece_bytes=256, max_pieces=4).bits_per_byte(TEXT) == pytest.approx(total / size, rel=1e-5)


def test_smollm2_foresees_text_in_its_context(smollm2: Path) -> None:
    torch.set_num_threads(1)
    model = CheckpointModel(smollm2, max_pieces=1)
    text = " The treaty was signed in Vienna by Count Orlovsky in the spring of 1842."
    context = "Count Orlovsky spent the spring of 1842 in Vienna, where he signed the treaty."
    related, unrelated = model.context_cost([(context, text), ("Mix flour and eggs; fry the batter until golden brown.", text)])
    assert related < -0.2 < unrelated
    assert model.bits_per_byte(text) < 2 < model.bits_per_byte("qx7 zzpl@@ vvrt 0x9 kkwq%% jjxz ##pp")
