"""Tokenizer files in a folder, as transformers lays them out: reading and writing.

The vocabulary is tokenizer.json, or tokenizer.model (SentencePiece), or that of the one GGUF in the folder.
tokenizer_config.json (and special_tokens_map.json in older folders) names the special tokens, generation_config.json the
tokens that end a reply, chat_template.jinja (or a field of the config) holds the chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from lianlu.core.errors import DataError
from lianlu.core.files import atomic_write, write_json, write_text
from lianlu.tokenizer.backend import Loaded
from lianlu.tokenizer.fast import FastBackend
from lianlu.tokenizer.gguf_vocab import load_gguf
from lianlu.tokenizer.spm import SentencePieceBackend

_SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token")
_FILES_HINT = "a tokenizer is a folder with tokenizer.json or tokenizer.model, or one of these files, or a .gguf file"


def load(path: Path) -> Loaded:
    """Read a tokenizer from a folder or one of its files. Raises: DataError that names the file."""
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise DataError(f"there is no tokenizer {path}", hint=_FILES_HINT)
    if path.suffix == ".gguf":
        return load_gguf(path)
    if path.suffix == ".json":
        return _load_fast(path)
    if path.suffix == ".model":
        return _load_sentencepiece(path)
    raise DataError(f"{path} is not a tokenizer", hint=_FILES_HINT)


def _load_folder(folder: Path) -> Loaded:
    if (folder / "tokenizer.json").is_file():
        return _load_fast(folder / "tokenizer.json")
    if (folder / "tokenizer.model").is_file():
        return _load_sentencepiece(folder / "tokenizer.model")
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return load_gguf(files[0])
    raise DataError(f"{folder} holds no tokenizer", hint=_FILES_HINT)


def _load_fast(path: Path) -> Loaded:
    text = _read_text(path)
    try:
        library = Library.from_str(text)
    except Exception as error:  # the library raises bare exceptions
        raise DataError(f"{path} is not a tokenizer.json, or it is damaged: {error}", hint="fetch or make it again") from error
    backend = FastBackend(library)
    config = _read_config(path.parent)
    if "add_bos_token" not in config:
        bos = config.get("bos_token")
        config["add_bos_token"] = backend.adds_bos(backend.token_id(bos) if bos else None)
    return Loaded(str(path), backend, config, _templates(path.parent, config), _end_ids(path.parent))


def _load_sentencepiece(path: Path) -> Loaded:
    try:
        proto = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    config = _read_config(path.parent)
    backend = SentencePieceBackend(proto, _added_tokens(path.parent, config), str(path))
    for key, fallback in zip(_SPECIAL_KEYS, ("<s>", "</s>", "<unk>"), strict=False):
        if key not in config and backend.token_id(fallback) is not None:
            config[key] = fallback
    config.setdefault("add_bos_token", True)
    return Loaded(str(path), backend, config, _templates(path.parent, config), _end_ids(path.parent))


def _added_tokens(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """Tokens beyond the SentencePiece model, text -> id."""
    rows = config.get("added_tokens_decoder") or {}
    listed = _read_json(folder / "added_tokens.json")
    try:
        return {str(_content(row)): int(index) for index, row in rows.items()} | {
            text: int(index) for text, index in listed.items()
        }
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{folder} names added tokens without ids", hint="mend tokenizer_config.json or added_tokens.json"
        ) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})", hint="the file is damaged: fetch it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file. Raises: DataError that names the file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}", hint="mend the file, or fetch it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object", hint="mend the file, or fetch it again")
    return value


def _content(token: Any) -> Any:
    """A token that is written as text, or as an object with the text in `content`."""
    return token.get("content") if isinstance(token, dict) else token


def _read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with its special tokens as plain text; what it lacks comes from special_tokens_map.json."""
    config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
    for key in _SPECIAL_KEYS:
        text = _content(config.pop(key, None))
        if isinstance(text, str):
            config[key] = text
    if not isinstance(config.get("added_tokens_decoder", {}), dict):
        raise DataError(
            f"{folder}/tokenizer_config.json: added_tokens_decoder is no table", hint="mend the file, or fetch it again"
        )
    return config


def _templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name; the file beside the config wins over the field in it."""
    field = config.pop("chat_template", None)
    found: dict[str, str] = {}
    if isinstance(field, str):
        found["default"] = field
    elif isinstance(field, list):
        found = {
            str(row["name"]): str(row["template"]) for row in field if isinstance(row, dict) and {"name", "template"} <= set(row)
        }
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = _read_text(path)
    if (folder / "chat_template.jinja").is_file():
        found["default"] = _read_text(folder / "chat_template.jinja")
    return found


def _end_ids(folder: Path) -> tuple[int, ...]:
    """The end tokens that generation_config.json names."""
    ends = _read_json(folder / "generation_config.json").get("eos_token_id")
    return tuple(index for index in (ends if isinstance(ends, list) else [ends]) if isinstance(index, int))


def save(loaded: Loaded, folder: Path) -> None:
    """Write the files of a tokenizer so that lianlu and transformers load them. Raises: ArtifactError for the disk."""
    for name, content in loaded.backend.files().items():
        with atomic_write(folder / name) as file:
            file.write(content)
    config = {"clean_up_tokenization_spaces": False, **loaded.config}
    if isinstance(loaded.backend, SentencePieceBackend):
        config |= {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_prefix_space": loaded.backend.adds_space}
    else:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("auto_map", None)  # names code that is not written here
    write_json(folder / "tokenizer_config.json", config)
    for name, template in loaded.templates.items():
        place = folder / "chat_template.jinja" if name == "default" else folder / "additional_chat_templates" / f"{name}.jinja"
        write_text(place, template)
