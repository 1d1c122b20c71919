"""What decides the bytes of a chunk, and the fingerprint of it.

Two engines with equal fields write and read the same bytes under the same key. What is left out, and why:
docs/offload_format.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.offload.layout.hashing import HashScheme

LAYOUT_VERSION = 1
_FINGERPRINT_BYTES = 16
_PART = re.compile(r"all|r(?:0|[1-9][0-9]{0,5})")
_NAME_CHARACTERS_MAX = 64


class GroupFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of layers that cache alike."""

    group_id: int
    """The number in the keys."""
    tokens_per_block: int
    layer_names: tuple[str, ...]


class SpaceFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides the bytes of a chunk: config.json, field by field."""

    layout_version: int = LAYOUT_VERSION
    engine: str = "vllm"
    engine_version: str
    """Bytes are not promised to stay the same across versions."""
    device: str
    """Kind and instruction set or capability: kernels of some lay the cache out for themselves."""
    model: str
    revision: str = ""
    """Whatever tells apart weights of one name; the operator's word."""
    dtype: str
    """Of the cache."""
    groups: tuple[GroupFields, ...]
    tokens_per_hash: int
    blocks_per_chunk: int
    row_bytes: int
    """Payload of a file."""
    worker_bytes_per_block: int
    world_size: int
    tp_size: int
    pp_size: int
    pcp_size: int
    dcp_size: int
    replicated_layout: bool
    """All ranks' bytes are equal and kept once."""
    canonical_layout: bool
    kv_cache_layout: str
    """As the engine names the order of its tensors; "": it does not say."""
    hash_algorithm: str
    hash_seed: str
    extras: dict[str, str] = {}
    """More that an operator wants told apart."""

    @property
    def key_bytes(self) -> int:
        """Length of a key."""
        return HashScheme(algorithm=self.hash_algorithm, seed=self.hash_seed).key_bytes

    def encode(self) -> bytes:
        """Canonical JSON: sorted, ASCII, without blanks. The exact bytes of config.json."""
        fields = msgspec.to_builtins(self)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def space_name(self) -> str:
        """The name of the space's folder: for people the model's, for programs 16 hex of the fingerprint."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", self.model).strip("._-")[-_NAME_CHARACTERS_MAX:] or "model"
        return f"{safe}-{hashlib.sha256(self.encode()).hexdigest()[:16]}"

    def fingerprint(self, part: str) -> bytes:
        """16 bytes for the heads of a part's files. Raises ConfigError unless "all" or "r<rank>"."""
        digest = hashlib.sha256(self.encode() + b"\n" + checked_part(part).encode()).digest()
        return digest[:_FINGERPRINT_BYTES]


def checked_part(part: str) -> str:
    """`part`, if it names one. Raises ConfigError."""
    if _PART.fullmatch(part) is None:
        raise ConfigError(f'part: expected "all" or "r" and a rank, got {part!r}')
    return part


def from_offloading_config(
    config: Any,
    *,
    row_bytes: int,
    hashing: HashScheme,
    engine_version: str,
    device: str,
    revision: str = "",
    extras: Mapping[str, str] | None = None,
) -> SpaceFields:
    """The fields of vLLM's OffloadingConfig, of 0.29 to 0.32; `row_bytes` is the payload of one file.

    Raises ConfigError for a configuration that lacks one, or has one of another kind.
    """
    try:
        parallel, cache = config.parallel, config.cache
        fields = {
            "engine_version": engine_version,
            "device": device,
            "model": config.model.name,
            "revision": revision,
            "dtype": config.model.dtype,
            "groups": [_group(number, group) for number, group in enumerate(config.groups)],
            "tokens_per_hash": cache.tokens_per_hash,
            "blocks_per_chunk": cache.blocks_per_chunk,
            "row_bytes": row_bytes,
            "worker_bytes_per_block": config.worker_kv_bytes_per_block,
            **{
                f"{axis}_size": getattr(parallel, f"{axis}_size")
                for axis in ("world", "tp", "pp", "pcp", "dcp")
            },
            "replicated_layout": config.replicated_layout,
            "canonical_layout": config.canonical_layout,
            "kv_cache_layout": config.kv_cache_layout or "",
            "hash_algorithm": hashing.algorithm,
            "hash_seed": hashing.seed,
            "extras": dict(extras or {}),
        }
    except AttributeError as error:
        raise ConfigError(
            f"OffloadingConfig: expected that of vLLM 0.29 to 0.32, got one where {error}"
        ) from None
    try:
        return msgspec.convert(fields, SpaceFields)
    except msgspec.ValidationError as error:
        raise ConfigError(f"OffloadingConfig: {error}") from None


def _group(number: int, group: Any) -> dict[str, Any]:
    return {
        "group_id": getattr(group, "group_id", number),  # 0.29 numbers them as they come
        "tokens_per_block": group.tokens_per_block,
        "layer_names": list(group.layer_names),
    }
