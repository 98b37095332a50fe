"""A served model that needs no training: a reciter, for tests of everything that talks over HTTP.

It has no memory, and each token has one likely successor, so that it says what is written into it, fast and for known
reasons: to a chat `REPLY`, a text with a tool call; to a letter the alphabet from there on, round and round.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lianlu.serve.main import running_server

CONTEXT = 4096
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
REPLY = ["Let", "Ġme", "Ġadd", ".", "<tool_call>", '{"name":', 'Ġ"add",', 'Ġ"arguments":', 'Ġ{"a":', "Ġ1}}", "</tool_call>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Bytes, the pieces of the reply, and three control tokens; returns the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys([*letters, *REPLY]))}
    fast = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")])
    fast.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return dict(fast.get_vocab())


def write_model(folder: Path, vocab: dict[str, int]) -> None:
    """A decoder whose attention and feed-forward do nothing and whose head knows each token's successor."""
    import torch

    from lianlu.model.config import ModelConfig
    from lianlu.model.decoder import Decoder
    from lianlu.model.save import save_model

    size = 320
    config = ModelConfig(
        architecture="llama", vocab_size=len(vocab), hidden_size=size, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=5, num_key_value_heads=1, head_dim=64, max_position_embeddings=CONTEXT,
        eos_token_ids=(vocab["<|im_end|>"],), bos_token_id=vocab["<|endoftext|>"],
    )  # fmt: skip
    model = Decoder(config)
    chain = [*pairwise(["Ċ", *REPLY, "<|im_end|>"]), *pairwise(ALPHABET + "a")]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        state = model.state_dict()
        (embedding,) = (name for name in state if "emb" in name)
        (head,) = (name for name in state if name.startswith(("head", "lm_head", "output")))
        state[embedding][:, : len(vocab)] = torch.eye(len(vocab))
        for before, after in chain:
            state[head][vocab[after], vocab[before]] = 7.0 / size**0.5
    save_model(model, folder)


def client_of(url: str, key: str = "none", **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, **options)


def recite(client: openai.OpenAI, model: str = "reciter", **fields: Any) -> Any:
    return client.completions.create(**{"model": model, "prompt": "xy", "temperature": 0, "max_tokens": 5} | fields)


@pytest.fixture(scope="session")
def reciter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reciter")
    write_model(folder, write_tokenizer(folder))
    return folder


@pytest.fixture(scope="session")
def url(reciter: Path) -> Iterator[str]:
    with running_server(reciter, name="reciter", engine={"max_queued": 8}) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="session")
def soon_idle() -> Callable[[str], bool]:
    """Whether the server at a URL comes to rest: nothing runs or waits, and no block is in use."""

    def wait(url: str) -> bool:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            state = httpx.get(f"{url}/health").json()
            if state["num_running"] == state["num_queued"] == state["used_blocks"] == 0:
                return True
            time.sleep(0.02)
        return False

    return wait
