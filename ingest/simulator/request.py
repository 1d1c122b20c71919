"""A request of the simulated model server: its tokens and the chain of its engine hashes."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy.typing as npt

from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature
from kvatlas.ingest.simulator.event_encoder import WireExtraKeys

PromptIds = Sequence[int] | npt.NDArray[Any]
"""Token ids of a prompt [n_tokens], 0 to 2^32 - 1 each."""

VOCABULARY = 32_000
"""Invented output tokens are below this."""

_ROOT_SEED = "kvatlas simulated server"
_TOKEN_BYTES = 4

_extras_encoder = msgspec.msgpack.Encoder()


def root_digest(seed: str) -> bytes:
    """The parent of every chain's first block; servers with equal seeds name equal blocks alike."""
    return hashlib.sha256(f"{_ROOT_SEED}\0{seed}".encode()).digest()


def engine_hash(digest: bytes) -> int:
    """A block's name as 64 bits: the last eight bytes of its digest."""
    return int.from_bytes(digest[-8:], "big")


@dataclass(slots=True, eq=False)
class SimulatedRequest:
    """One request, from its prompt to its last output token.

    The engine hash of a block is the SHA-256 of its parent's, its tokens and its extras (tagged,
    so that a salt and a LoRA of one name differ).
    Raises InputError when a token id is not within 0 to 2^32 - 1, or the prompt is empty.
    """

    token_ids: list[int]
    """The prompt and what has been sampled so far."""
    block_size: int
    root: bytes
    lora: str | None = None
    lora_id: int | None = None
    cache_salt: str | None = None
    features: list[Feature] = field(default_factory=list)

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt: what the server reused, as it reports in `usage`."""
    computed_tokens: int = 0
    """Tokens whose keys and values are in the cache; the last sampled one is not."""
    shared_prefix_tokens: int = 0
    """Where a group that keeps only some blocks cut a longer hit of another group short; or 0."""
    digests: list[bytes] = field(default_factory=list)
    """Of each full block of `token_ids`."""
    tables: list[list[int]] = field(default_factory=list)
    """Per group, the physical block of each position [n_blocks]; the null block where none is."""
    cached_blocks: list[int] = field(default_factory=list)
    """Per group, how many leading positions have been through caching."""
    offered_chunks: int = 0
    """Leading chunks that have been offered to the CPU tier, or were loaded from it."""
    used_chunks: dict[int, bytes] = field(default_factory=dict)
    """Position in the prefix -> key, of the chunks that it stored in the CPU tier or found there."""
    finished: bool = False

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise InputError("token_ids: expected at least one token, got none")
        self.prompt_tokens = len(self.token_ids)
        self.features = sorted(self.features, key=lambda feature: feature[1])
        self._hash_full_blocks()

    def append(self, token_ids: Sequence[int]) -> None:
        """Adds sampled tokens."""
        self.token_ids.extend(token_ids)
        try:
            self._hash_full_blocks()
        except InputError:
            del self.token_ids[-len(token_ids) :]
            raise

    @property
    def prompt_digests(self) -> list[bytes]:
        """Of the prompt's full blocks."""
        return self.digests[: self.prompt_tokens // self.block_size]

    def extra_keys(self, block: int, scale: int = 1) -> WireExtraKeys | None:
        """What else goes into this block's hash, in the wire's order; None: nothing.

        Blocks are counted in `scale` times the block size, for groups whose blocks are larger.
        """
        if self._is_plain(block):
            return None
        return tuple(value for _, value in self._tagged_extras(block, scale)) or None

    def invented(self, count: int) -> list[int]:
        """Output tokens that depend on the request alone: all servers answer it alike."""
        chain = self.digests[-1] if self.digests else self.root
        source = random.Random(chain + len(self.token_ids).to_bytes(8, "big"))
        return [source.randrange(VOCABULARY) for _ in range(count)]

    def _is_plain(self, block: int) -> bool:
        return self.lora is None and not self.features and not (block == 0 and self.cache_salt)

    def _tagged_extras(self, block: int, scale: int = 1) -> list[tuple[str, str | tuple[str, int]]]:
        extras: list[tuple[str, str | tuple[str, int]]] = []
        if self.lora is not None:
            extras.append(("lora", self.lora))
        size = self.block_size * scale
        start = block * size
        for identifier, offset, length in self.features:
            if offset < start + size and start < offset + length:
                extras.append(("mm", (identifier, offset - start)))
        if block == 0 and self.cache_salt:
            extras.append(("cache_salt", self.cache_salt))
        return extras

    def _hash_full_blocks(self) -> None:
        first, end = len(self.digests), len(self.token_ids) // self.block_size
        if first >= end:
            return
        packed = _packed(self.token_ids[first * self.block_size : end * self.block_size])
        stride = self.block_size * _TOKEN_BYTES
        parent = self.digests[-1] if self.digests else self.root
        for block in range(first, end):
            start = (block - first) * stride
            content = parent + packed[start : start + stride]
            extras = None if self._is_plain(block) else self._tagged_extras(block)
            if extras:
                content += _extras_encoder.encode(extras)
            parent = hashlib.sha256(content).digest()
            self.digests.append(parent)


def _packed(token_ids: list[int]) -> bytes:
    try:
        return array("I", token_ids).tobytes()
    except (OverflowError, TypeError) as error:
        raise InputError(f"token_ids: expected integers from 0 to 2^32 - 1, got {error}") from error
