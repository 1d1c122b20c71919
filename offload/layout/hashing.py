"""How an engine hashes blocks: what decides its keys, and whether they mean the same after a restart.

vLLM hashes a chain from a root that it makes of a seed: PYTHONHASHSEED where that is set, else a fixed text
with sha256 and sha256_cbor, else (xxhash, xxhash_cbor) random bytes. Under a random seed every restart names
the same tokens anew: what was stored is never found again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from typing import Any

import msgspec

from kvatlas.index.errors import ConfigError, StoreError

_HASH_BYTES = {"sha256": 32, "sha256_cbor": 32, "xxhash": 16, "xxhash_cbor": 16}
_FIXED_SEED = ("sha256", "sha256_cbor")
_GROUP_BYTES = 4
_SEED_VARIABLE = "PYTHONHASHSEED"
_DEFAULT_SEED = "vllm-none-hash"  # vLLM 0.29 to 0.32


class HashScheme(msgspec.Struct, frozen=True, kw_only=True):
    """The hash of an engine's blocks and the seed of its chains."""

    algorithm: str
    """As vLLM names it: prefix_caching_hash_algo."""
    seed: str
    """"default", or the first 16 hex of the SHA-256 of PYTHONHASHSEED."""

    @property
    def hash_bytes(self) -> int:
        """Length of a block's hash."""
        return _HASH_BYTES[self.algorithm]

    @property
    def key_bytes(self) -> int:
        """Length of an offload key: the hash and the group's number."""
        return self.hash_bytes + _GROUP_BYTES


def hash_scheme(algorithm: str = "sha256", environ: Mapping[str, str] = os.environ) -> HashScheme:
    """What vLLM will use, told by its options and its environment.

    Raises ConfigError for an unknown algorithm, and where vLLM would draw a random seed.
    """
    if algorithm not in _HASH_BYTES:
        raise ConfigError(f"hash_algorithm: expected one of {', '.join(_HASH_BYTES)}, got {algorithm!r}")
    seed = environ.get(_SEED_VARIABLE)
    if seed is None and algorithm not in _FIXED_SEED:
        raise ConfigError(
            f"hash_algorithm: expected {_SEED_VARIABLE} to be set with {algorithm!r}, got none: vLLM then"
            " seeds its hashes at random, and no file would be found again after a restart; set it, the same"
            " in every server, or use sha256"
        )
    return HashScheme(algorithm=algorithm, seed=_digest(_DEFAULT_SEED if seed is None else seed))


def check_hashing(scheme: HashScheme, kv_cache_utils: Any) -> None:
    """Compares with what vLLM did choose: its `v1.core.kv_cache_utils` knows from the first request on.

    Raises StoreError where the seed or the algorithm is another: what is stored would not be found again.
    """
    seed = str(kv_cache_utils.get_none_hash_seed())
    if _digest(seed) != scheme.seed:
        raise StoreError(
            f"vLLM's hash seed: expected {scheme.seed}, got {_digest(seed)}:"
            f" it is random, or {_SEED_VARIABLE} has changed"
        )
    root = bytes(kv_cache_utils.NONE_HASH)
    expected = _root_of(scheme.algorithm, seed)
    if len(root) != scheme.hash_bytes or (expected is not None and root != expected):
        others = [name for name, n in _HASH_BYTES.items() if n == len(root) and name != scheme.algorithm]
        got = " or ".join(others) or f"one of {len(root)} bytes"
        raise StoreError(
            f"vLLM's block hash: expected {scheme.algorithm}, got {got}: say so in hash_algorithm"
        )


def _digest(seed: str) -> str:
    return "default" if seed == _DEFAULT_SEED else hashlib.sha256(seed.encode()).hexdigest()[:16]


def _root_of(algorithm: str, seed: str) -> bytes | None:
    # None: by xxhash, which need not be installed here.
    if algorithm == "sha256":
        return hashlib.sha256(pickle.dumps(seed, protocol=pickle.HIGHEST_PROTOCOL)).digest()
    if algorithm == "sha256_cbor":
        return hashlib.sha256(_cbor_text(seed)).digest()
    return None


def _cbor_text(text: str) -> bytes:
    # RFC 8949: major type 3, the shortest length.
    encoded = text.encode()
    if len(encoded) < 24:
        return bytes([0x60 | len(encoded)]) + encoded
    if len(encoded) < 256:
        return bytes([0x78, len(encoded)]) + encoded
    return bytes([0x79]) + len(encoded).to_bytes(2, "big") + encoded
