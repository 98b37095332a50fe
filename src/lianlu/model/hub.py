"""Models of a Hugging Face hub: `org/name`, or `org/name@revision`, through `huggingface_hub` into its own cache.

Only safetensors, JSON and tokenizer files are taken, never pickles and never the copies for other runtimes. Interrupted
downloads continue and hashes are checked by the library. Mirrors, logins and offline mode are its own settings
(`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`). Used by `model.pull`.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import httpx

from lianlu.core import console
from lianlu.core.errors import DataError
from lianlu.model.download import watch

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.tiktoken", "merges.txt", "vocab.txt", "LICENSE*")
UNWANTED = ("onnx/*", "openvino/*", "original/*", "metal/*", "runs/*", "*.bin.index.json")


def is_id(name: str) -> bool:
    """Whether `name` has the shape of a hub id."""
    return _ID.fullmatch(name) is not None


def local_snapshot(name: str) -> Path | None:
    """The snapshot of a hub id if it was fetched before and is whole; never touches the network."""
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except Exception:  # what the library raises for "not here" differs between its versions
        return None
    return folder if _is_whole(folder) else None


def pull_snapshot(name: str) -> Path:
    """Fetch a hub id. Raises: DataError when the hub cannot be reached, does not know it, or has no safetensors of it."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    repo, _, revision = name.partition("@")
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    disable_progress_bars()

    def fetch() -> str:
        return snapshot_download(repo, revision=info.sha, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))

    try:
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True)
        size = sum(item.size or 0 for item in info.siblings or () if _wanted(item.rfilename))
        console.info(f"pulling {name} at {(info.sha or '')[:12]} ({console.format_bytes(size)})")
        folder = Path(watch(name, cache, size, fetch))
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise DataError(f"cannot get {name} from the hub: {_reason(error)}", hint=_hint(error)) from error
    if not _is_whole(folder):
        raise DataError(
            f"{name} has no safetensors weights", hint="lianlu reads no pickles: look for a converted copy of the model"
        )
    return folder


def _wanted(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in WANTED) and not any(fnmatch(path, pattern) for pattern in UNWANTED)


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has all the weights that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return all((folder / name).is_file() for name in names)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _hint(error: Exception) -> str:
    kind = type(error).__name__
    if "NotFound" in kind:
        return "check the id; a private or gated model needs HF_TOKEN; a local folder must exist under the path as written"
    if "Gated" in kind:
        return "accept the model's terms on its page, then set HF_TOKEN"
    return "is this machine online? set HF_ENDPOINT for a mirror, or copy the model here and give its folder instead"
