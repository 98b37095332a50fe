"""A model with a tokenizer, an adapter on it, and something to judge it on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from lianlu.formats.messages import Conversation, Message, write_conversations
from lianlu.model.config import ModelConfig
from lianlu.model.decoder import build_model
from lianlu.model.lora import LoraSpec, add_lora, save_adapter
from lianlu.model.lora_linear import lora_layers
from lianlu.model.save import save_model
from lianlu.tokenizer.tokenizer import Tokenizer

torch.set_num_threads(1)

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["the cat sees the dog", "a small tree", "the old house and the green tree", "who sees the cat?"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "nano"
    folder.mkdir()
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=280, special_tokens=SPECIALS, initial_alphabet=alphabet))
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = ModelConfig(
        vocab_size=Tokenizer.load(folder).vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
    )
    save_model(build_model(config, seed=2), folder)
    return folder


@pytest.fixture(scope="session")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lianlu.model.load import load_model

    folder = tmp_path_factory.mktemp("adapter")
    model = load_model(checkpoint)
    add_lora(model, LoraSpec(rank=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, layer in lora_layers(model):
            for matrix in layer.lora_B.values():
                matrix.normal_(0, 0.05, generator=generator)
    save_adapter(model, folder, "nano")
    return folder


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversations")
    talks = [
        Conversation(id=str(i), messages=[Message(role="user", content=a), Message(role="assistant", content=b)])
        for i, (a, b) in enumerate(zip(TEXTS, reversed(TEXTS), strict=True))
    ]
    write_conversations(folder / "train.jsonl", talks[:2])
    write_conversations(folder / "held_out.jsonl", talks)
    return folder
