"""Stores to be filled: chunk files of any size and age, and a writer that asks before it writes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from kvatlas.offload._native import chunk_name, crc32c, encode_head
from kvatlas.offload.capacity.capacity import Capacity
from kvatlas.offload.layout.space import Space, open_space
from tests.offload.space_fields import fields_of

PAGE_BYTES = 4096


def key_of(number: int, group: int = 0) -> bytes:
    """A key as an engine with 32-byte hashes makes them."""
    return hashlib.sha256(number.to_bytes(8, "big")).digest() + group.to_bytes(4, "big")


def make_store(
    root: Path, model: str = "some/model", part: str = "all", row_bytes: int = PAGE_BYTES
) -> Space:
    """A space of a store, made as an engine makes it."""
    return open_space(root, fields_of(model, row_bytes), store="files", part=part)


def put(folder: Path, key: bytes, n_bytes: int = PAGE_BYTES, age_s: float | None = None) -> Path:
    """A file of a chunk's name; its bytes mean nothing. With `age_s` it was last used so long ago."""
    return _placed(folder, key, bytes(n_bytes), age_s)


def put_chunk(space: Space, key: bytes, payload: bytes, age_s: float | None = None) -> Path:
    """A chunk file that verifies."""
    head = encode_head(
        key=key,
        fingerprint=space.fingerprint,
        payload_bytes=len(payload),
        payload_crc32c=crc32c(payload),
        writer=bytes(16),
        written_ms=0,
    )
    content = head + payload.ljust(-(-len(payload) // PAGE_BYTES) * PAGE_BYTES, b"\0")
    return _placed(space.part_folder, key, content, age_s)


def last_used(path: Path, age_s: float) -> None:
    """As if nobody had used it for so long, by the store's clock."""
    probe = path.with_name(f".probe.{os.getpid():08x}.tmp")
    probe.write_bytes(b".")
    dated_ns = probe.stat().st_mtime_ns - int(age_s * 1e9)
    probe.unlink()
    os.utime(path, ns=(dated_ns, dated_ns))


def files_of(root: Path) -> list[Path]:
    """All chunk files of a store."""
    return sorted(path for path in root.glob("*/*/*/*.kv") if path.parts[len(root.parts)] != "control")


def bytes_of(root: Path) -> int:
    """That its chunk and temporary files take; what vanishes meanwhile is left out."""
    total = 0
    for folder, _, names in os.walk(root):
        if Path(folder).relative_to(root).parts[:1] == ("control",):
            continue
        for name in names:
            if name.endswith((".kv", ".tmp")):
                try:
                    total += os.stat(f"{folder}/{name}").st_size
                except FileNotFoundError:
                    continue
    return total


def store(capacity: Capacity, folder: Path, key: bytes, n_bytes: int = PAGE_BYTES) -> bool:
    """As a writer does it; whether there was room."""
    if not capacity.may_store(n_bytes):
        return False
    put(folder, key, n_bytes)
    capacity.stored(n_bytes)
    return True


def wait_until(is_so: Callable[[], bool], why: str, timeout_s: float = 60.0) -> None:
    """Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"expected that {why}")
        time.sleep(0.005)


def _placed(folder: Path, key: bytes, content: bytes, age_s: float | None) -> Path:
    path = folder / chunk_name(key)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid():08x}.1.tmp")
    temporary.write_bytes(content)
    if age_s is not None:
        dated_ns = temporary.stat().st_mtime_ns - int(age_s * 1e9)
        os.utime(temporary, ns=(dated_ns, dated_ns))
    temporary.rename(path)
    return path
