"""The vocabulary inside a GGUF file, as a tokenizer.

`tokenizer.ggml.model` says which family: `gpt2` is byte-level BPE with a list of merges and a named way to split text
(`pre_tokenizers.toml`), `llama` is a SentencePiece BPE of pieces and scores. Token types mark control tokens, which are
never found in plain text, and user-defined ones, which always are. The chat template lies beside them. Keys: the GGUF
specification of ggml.

Limits: other families (`bert`, `t5`, `rwkv`) belong to models that lianlu does not run.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from lianlu.core.errors import DataError
from lianlu.formats.gguf import read_gguf
from lianlu.tokenizer.backend import Backend, Loaded
from lianlu.tokenizer.fast import FastBackend
from lianlu.tokenizer.spm import CONTROL, NORMAL, USER_DEFINED, SentencePieceBackend, write_proto

_BPE = 2


def load_gguf(path: Path) -> Loaded:
    """Read vocabulary, special tokens and chat templates. Raises: DataError that names the file."""
    metadata = read_gguf(path).metadata
    tokens = _list(metadata, "tokens", path)
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise DataError(
            f"{path} has {len(tokens)} tokens but {len(types)} token types", hint="the file is damaged: fetch it again"
        )
    family = metadata.get("tokenizer.ggml.model")
    backend: Backend
    if family == "gpt2":
        backend = _byte_level(metadata, tokens, types, path)
    elif family == "llama":
        backend = _sentencepiece(metadata, tokens, types, path)
    else:
        raise DataError(
            f"{path} has a vocabulary of the kind {family!r}", hint="byte-level BPE (gpt2) and SentencePiece (llama) are read"
        )
    return Loaded(str(path), backend, _config(metadata, tokens, family), _templates(metadata))


def _list(metadata: dict[str, Any], key: str, path: Path) -> list[Any]:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found:
        raise DataError(
            f"{path} has no tokenizer.ggml.{key}", hint="give a GGUF with a vocabulary, or a folder with a tokenizer.json"
        )
    return found


def _byte_level(metadata: dict[str, Any], tokens: list[str], types: list[int], path: Path) -> Backend:
    merges = [tuple(merge.split(" ", 1)) for merge in _list(metadata, "merges", path)]
    way = _pre_tokenizer(str(metadata.get("tokenizer.ggml.pre", "default")), path)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        library = Library(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=way.get("whole_words", False)))
    except Exception as error:  # the library raises bare exceptions
        raise DataError(f"{path} has a damaged vocabulary: {error}", hint="fetch the file again") from error
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in way["splits"]]
    library.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    if way.get("normalizer") == "NFC":
        library.normalizer = normalizers.NFC()
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (CONTROL, USER_DEFINED) and token
    ]
    library.add_tokens(added)
    return FastBackend(library)


def _pre_tokenizer(name: str, path: Path) -> dict[str, Any]:
    text = resources.files("lianlu.tokenizer").joinpath("pre_tokenizers.toml").read_text(encoding="utf-8")
    ways = tomllib.loads(text)
    for way in ways.values():
        if name in way["names"]:
            return dict(way)
    known = ", ".join(way["names"][0] for way in ways.values())
    raise DataError(
        f"{path} splits text in a way that is not known here: {name!r}",
        hint=f"known are {known} and their kin; a folder with the model's tokenizer.json always works",
    )


def _sentencepiece(metadata: dict[str, Any], tokens: list[str], types: list[int], path: Path) -> Backend:
    scores = _list(metadata, "scores", path)
    if len(scores) != len(tokens):
        raise DataError(f"{path} has {len(tokens)} tokens but {len(scores)} scores", hint="the file is damaged: fetch it again")
    rows = [(_spelled(token, kind), score, kind) for token, score, kind in zip(tokens, scores, types, strict=True)]
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    return SentencePieceBackend(write_proto(rows, _BPE, prefix), {}, str(path))


def _spelled(token: str, kind: int) -> str:
    """Spaces as SentencePiece writes them; control tokens keep their text."""
    return token if kind == CONTROL else token.replace(" ", "\u2581")


def _config(metadata: dict[str, Any], tokens: list[str], family: str) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            config[f"{name}_token"] = tokens[index]
    config["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", family == "llama"))
    return config


def _templates(metadata: dict[str, Any]) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    found = {key[len(prefix) + 1 :]: value for key, value in metadata.items() if key.startswith(prefix + ".") and value}
    if default := metadata.get(prefix):
        found["default"] = default
    return found
