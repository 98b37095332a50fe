"""Named sessions: the keys and values of conversations, kept on disk so that they outlive the process.

A request that names a session leaves the full blocks of its conversation behind when it ends: they are copied on the
engine's thread and written in another. A request that comes later, after a restart or after the blocks had to make way for
others, finds them: before it is queued, blocks of its prompt that are on disk and not in the pool are read into free
blocks and published, so that the ordinary prefix match finds them. Records are found by content, so sessions that begin
alike share them, and what is found is what would be computed, to the bit; a record that cannot be used is computed anew.

A folder is for many models: what was kept under other weights, numbers or block sizes is not seen (`fingerprint`), and counts
only towards the bytes that may be kept. Trouble with the disk is a warning, never a failed request.

Shapes: T tokens of the probe, L the same, G key-value heads, H query heads, K head_dim, D hidden_size, V vocab_size, N blocks,
Z bytes of a block.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from collections.abc import Sequence as ReadSequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from lianlu.core.console import warn
from lianlu.core.errors import ArtifactError, ConfigError, RequestError
from lianlu.engine.blocks import BlockPool, chain
from lianlu.engine.config import EngineConfig
from lianlu.engine.runner import Runner
from lianlu.engine.sequence import Sequence
from lianlu.engine.session_files import Manifest, SessionFiles, on_disk
from lianlu.kernels.paged_attention import chunk_attention

NAME = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
PROBE_TOKENS = 32
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
READ_BLOCKS = 64
MAX_PENDING_BYTES = 1_000_000_000
MANIFEST_TOKEN_BYTES = 10


@dataclass(frozen=True)
class SessionInfo:
    """A kept session: its tokens, the bytes of its records (shared ones counted in full), when it was used (since 1970)."""

    name: str
    num_tokens: int
    num_bytes: int
    used_s: float


class Sessions:
    """The named sessions of one engine."""

    def __init__(self, folder: Path, max_bytes: int, runner: Runner) -> None:
        """Keeps at most `max_bytes` in `folder`. Raises: ConfigError if the folder cannot be used."""
        self._max_bytes = max_bytes
        self._block_size = runner.block_size
        try:
            self._files = SessionFiles(folder, fingerprint(runner), runner.block_bytes)
        except OSError as error:
            hint = "choose a folder that may be written to"
            raise ConfigError(f"sessions cannot be kept in {folder}: {error.strerror or error}", hint=hint) from error
        self._lock = threading.Lock()
        self._pending: set[bytes] = set()
        self._writer: ThreadPoolExecutor | None = None
        self._is_failing = False

    def check(self, name: str) -> None:
        """Raises: RequestError (400) if no session can have that name."""
        if not NAME.fullmatch(name):
            hint = "up to 128 letters, digits and . _ : @ -"
            raise RequestError(f"{name[:128]!r} cannot be the name of a session", hint=hint)

    def list(self, salt: str = "") -> list[SessionInfo]:
        """The sessions that requests with this salt have kept, last used first; legal from any thread."""
        owner, size = _owner(salt), self._files.record_bytes
        found = [(each, used_s) for each, used_s in self._files.manifests() if each.owner == owner]
        infos = [
            SessionInfo(
                each.name, len(each.tokens), sum(size for text in each.digests if self._files.has(bytes.fromhex(text))), used_s
            )
            for each, used_s in found
        ]
        return sorted(infos, key=lambda info: -info.used_s)

    def delete(self, name: str, salt: str = "") -> None:
        """Forget a session; records that others share stay. Legal from any thread. Raises: RequestError (400, 404)."""
        self.check(name)
        self.flush()
        if not self._files.forget(name, _owner(salt)):
            raise RequestError(f"there is no session {name}", hint="the list of sessions says which there are", status=404)
        self._post(lambda: None)

    def restore(self, sequence: Sequence, pool: BlockPool, runner: Runner) -> int:
        """Read blocks of a new sequence's prompt from disk into free blocks and publish them; how many. Engine's thread."""
        digests = _digests(sequence, self._block_size)
        shared = pool.match(digests)
        missing = digests[len(shared) :]
        missing = missing[: on_disk(self._files, missing)]
        held = pool.take(0, shared) or []
        num_restored = 0
        try:
            while missing and (blocks := pool.take(min(len(missing), READ_BLOCKS, pool.num_available))):
                held += blocks
                num_read = self._load(runner, blocks, missing[: len(blocks)])
                for block, digest in zip(blocks[:num_read], missing, strict=False):
                    pool.publish(block, digest)
                num_restored += num_read
                missing = missing[len(blocks) :] if num_read == len(blocks) else []
        finally:
            pool.release(held)
        with contextlib.suppress(OSError):
            self._files.touch(sequence.request.session, _owner(sequence.request.salt))
        return num_restored

    def _load(self, runner: Runner, blocks: ReadSequence[int], digests: ReadSequence[bytes]) -> int:
        """Fill blocks from disk up to the first record that cannot be used; how many."""
        bytes_NZ = torch.empty(len(blocks), runner.block_bytes, dtype=torch.uint8)
        num_read = 0
        for digest, row in zip(digests, bytes_NZ.numpy(), strict=True):
            try:
                damage = self._files.read(digest, row.data)
            except FileNotFoundError:
                break
            except OSError as error:
                damage = error.strerror or str(error)
            if damage:
                warn(f"a kept block of a session is not used and computed again: {damage}")
                break
            num_read += 1
        if num_read:
            runner.load(blocks[:num_read], bytes_NZ[:num_read])
        return num_read

    def keep(self, sequence: Sequence, runner: Runner) -> None:
        """Keep the session of a sequence that ends and still holds its blocks; returns before it is on disk. Engine's thread."""
        request = sequence.request
        room = self._max_bytes // (self._files.record_bytes + self._block_size * MANIFEST_TOKEN_BYTES)
        num_full = min(sequence.num_computed // self._block_size, len(sequence.digests), room)
        digests = sequence.digests[:num_full]
        with self._lock:
            new = [index for index, digest in enumerate(digests) if digest not in self._pending and not self._files.has(digest)]
            new = new[: max(0, MAX_PENDING_BYTES // self._files.record_bytes - len(self._pending))]
            self._pending.update(digests[index] for index in new)
        owner = _owner(request.salt)
        texts = tuple(digest.hex() for digest in digests)
        manifest = Manifest(name=request.session, owner=owner, tokens=tuple(sequence.tokens), digests=texts)
        bytes_NZ = runner.export([sequence.blocks[index] for index in new])
        self._post(partial(self._write, manifest, [digests[index] for index in new], bytes_NZ))

    def flush(self) -> None:
        """Wait until all that is to be kept is on disk; legal from any thread."""
        writer = self._writer
        if writer is not None:
            with contextlib.suppress(RuntimeError):
                writer.submit(lambda: None).result()

    def close(self) -> None:
        """`flush`, and end the thread that writes; legal more than once, and what is kept later starts it again."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.shutdown()

    def _post(self, job: Callable[[], None]) -> None:
        """Run a job, then clear up, in the thread that writes."""
        with self._lock:
            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, "lianlu-sessions")
            self._writer.submit(self._run, job)

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
            self._files.clear_up(self._max_bytes)
        except (ArtifactError, OSError) as error:
            if not self._is_failing:
                warn(f"sessions are not kept at the moment: {error}")
            self._is_failing = True
        else:
            self._is_failing = False

    def _write(self, manifest: Manifest, digests: ReadSequence[bytes], bytes_NZ: Tensor) -> None:
        try:
            self._files.save(manifest)
            for digest, row in zip(digests, bytes_NZ.numpy(), strict=True):
                self._files.write(digest, row.data)
        finally:
            with self._lock:
                self._pending.difference_update(digests)


def open_sessions(config: EngineConfig, runner: Runner) -> Sessions | None:
    """The sessions that a configuration asks for. Raises: ConfigError if they cannot be kept."""
    if config.sessions is None:
        return None
    if not config.prefix_cache:
        raise ConfigError("sessions are found through the prefix cache, which is off", hint="set prefix_cache = true")
    return Sessions(config.sessions, config.max_sessions_bytes, runner)


def _owner(salt: str) -> str:
    """Whose a session is, without telling the salt."""
    return blake2b(salt.encode(), digest_size=16).hexdigest() if salt else ""


def _digests(sequence: Sequence, block_size: int) -> list[bytes]:
    """Chained digests of the full blocks of a prompt, all but the last token's; noted in the sequence."""
    count = (len(sequence.tokens) - 1) // block_size
    for index in range(len(sequence.digests), count):
        parent = sequence.digests[-1] if sequence.digests else sequence.root
        sequence.digests.append(chain(parent, sequence.tokens[index * block_size : (index + 1) * block_size]))
    return sequence.digests[:count]


@torch.inference_mode()
def fingerprint(runner: Runner) -> bytes:
    """16 bytes that stand for what a model computes on this machine and how its keys and values are kept.

    Besides the shape they cover keys, values and hidden states of a probe, which every weight of every layer takes part in,
    whatever form it is held in, and a checksum of each token's embedding.
    """
    model, codec = runner.model, runner.codec
    state = blake2b(digest_size=16)
    state.update(f"{model.config.model_dump_json()} {codec} {runner.block_size}".encode())
    rows_VX = model.embed_tokens.weight.detach().view(INTEGERS[model.embed_tokens.weight.element_size()])
    state.update(rows_VX.sum(-1, dtype=torch.int64).cpu().numpy().data)

    def note(*tensors: Tensor) -> None:
        for each in tensors:
            state.update(each.float().cpu().contiguous().numpy().data)

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, /) -> Tensor:
        note(k_TGK, v_TGK)
        return chunk_attention(q_THK, k_TGK, v_TGK, len(k_TGK))

    positions_T = torch.arange(PROBE_TOKENS, device=runner.device)
    ids_T = positions_T * max(1, model.config.vocab_size // PROBE_TOKENS) % model.config.vocab_size
    note(model.hidden(ids_T, positions_T, attend))
    return state.digest()
