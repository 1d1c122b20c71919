"""Fields, and stores with chunk files in them, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kvatlas.offload import _native
from kvatlas.offload.layout.fingerprint import SpaceFields, from_offloading_config
from kvatlas.offload.layout.hashing import hash_scheme
from kvatlas.offload.layout.space import Space

KEY = bytes(range(32)) + bytes(4)


def offloading_config(**changes: Any) -> SimpleNamespace:
    """As vLLM 0.29 makes one: the attributes that matter here."""
    config = {
        "groups": (SimpleNamespace(tokens_per_block=16, layer_names=("layers.0", "layers.1")),),
        "worker_kv_bytes_per_block": 2048,
        "model": SimpleNamespace(name="some-org/tiny model", dtype="bfloat16"),
        "cache": SimpleNamespace(tokens_per_hash=16, blocks_per_chunk=4),
        "parallel": SimpleNamespace(world_size=2, tp_size=2, pp_size=1, pcp_size=1, dcp_size=1),
        "replicated_layout": False,
        "canonical_layout": False,
        "kv_cache_layout": None,
    }
    return SimpleNamespace(**{**config, **changes})


def fields(config: Any = None, **changes: Any) -> SpaceFields:
    """Of that configuration, with other arguments where given."""
    arguments: dict[str, Any] = {
        "row_bytes": 10_000,
        "hashing": hash_scheme(environ={}),
        "engine_version": "0.32.0",
        "device": "cpu:x86_64:avx2",
    }
    return from_offloading_config(config or offloading_config(), **{**arguments, **changes})


def chunk(space: Space, key: bytes = KEY, payload: bytes = b"x" * 10_000) -> bytes:
    """A chunk file's bytes."""
    head = _native.encode_head(
        key=key,
        fingerprint=space.fingerprint,
        payload_bytes=len(payload),
        payload_crc32c=_native.crc32c(payload),
        writer=bytes(16),
        written_ms=0,
    )
    return head + payload + bytes(-len(payload) % 4096)


def put(space: Space, key: bytes = KEY, content: bytes | None = None) -> Path:
    """Writes a file under its name."""
    path = space.part_folder / _native.chunk_name(key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(chunk(space, key) if content is None else content)
    return path
