"""Block keys: the 64-bit chained hash by which writer and reader name a block.

The bit-exact definition stands in docs/indexer.md; native/keys.hpp computes it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Keyspace
from kvatlas.index.errors import InputError

Algorithm = Literal["fold64", "fnv64a_cbor"]
Feature = tuple[str, int, int]
"""A multimodal item of a prompt: (identifier, offset, length), in tokens."""

TokenIds = Sequence[int] | npt.NDArray[Any] | bytes | bytearray | memoryview
"""Token ids: integers, a one-dimensional integer array, or bytes of little-endian uint32."""

BLOCK_SIZE_MAX = 4096
"""Tokens."""


@functools.lru_cache(maxsize=1024)
def keyspace(model: str, block_size: int, algorithm: Algorithm = "fold64", hash_seed: str = "") -> Keyspace:
    """What seeds the chains of one model: made once, then shared.

    Raises InputError for an unknown algorithm or a block size outside 1 to 4096 tokens.
    """
    algorithms = get_args(Algorithm)
    _check("algorithm", algorithm, algorithm in algorithms, f"one of {', '.join(algorithms)}")
    _check(
        "block_size",
        block_size,
        type(block_size) is int and 1 <= block_size <= BLOCK_SIZE_MAX,
        f"an int from 1 to {BLOCK_SIZE_MAX}",
    )
    _check("model", model, isinstance(model, str), "a str")
    _check("hash_seed", hash_seed, isinstance(hash_seed, str), "a str")
    if algorithm == "fnv64a_cbor":
        return Keyspace.fnv64a_cbor(hash_seed, model, block_size)
    return Keyspace.fold64(fold64_secrets(hash_seed, model, block_size), block_size)


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise InputError(f"{name}: expected {expected}, got {value!r}")


def fold64_secrets(hash_seed: str, model: str, block_size: int) -> bytes:
    """The sixteen secret words of a fold64 keyspace, as 128 bytes."""
    encoded = b"kvatlas.fold64.v1\0"
    for value in (hash_seed, model):
        try:
            utf8 = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InputError(f"model: expected text, got {value!r:.200}: {error.reason}") from error
        encoded += len(utf8).to_bytes(4, "little") + utf8
    encoded += block_size.to_bytes(4, "little")
    return b"".join(
        hashlib.blake2b(encoded, digest_size=64, salt=salt).digest() for salt in (b"stripe", b"chain")
    )


def block_keys(
    token_ids: TokenIds,
    *,
    model: str,
    block_size: int = 16,
    algorithm: Algorithm = "fold64",
    hash_seed: str = "",
    lora: str | None = None,
    cache_salt: str | None = None,
    features: Iterable[Feature] | None = None,
    parent: int | None = None,
) -> npt.NDArray[np.uint64]:
    """The keys of the full blocks of a prompt, uint64 [n_blocks].

    `token_ids` [n_tokens] as list, integer array or little-endian uint32 bytes; a last, partial
    block has no key. `features` are the prompt's multimodal items. With `parent` (a block key)
    the chain goes on from there; LoRA and salt are then in the parent already and ignored here.

    fold64 is seeded: keep `hash_seed` private, or a client can make prompts that collide.
    fnv64a_cbor agrees with llm-d bit for bit and has no place for `cache_salt` (InputError).

    Raises InputError for ids outside 0 to 2^32-1 and anything of the wrong type, saying where.
    """
    space = keyspace(model, block_size, algorithm, hash_seed)
    return space.keys(token_ids, lora, cache_salt, features, parent)
