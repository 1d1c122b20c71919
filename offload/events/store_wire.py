"""What is published of a store's files, in the form that model servers use for blocks on storage.

A file is named by the hash of its last block, and holds `chunk_blocks`: readers that do not know that
field see placeholders, as from a server whose events do not describe themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from kvatlas.index.errors import InputError

MEDIUM = "STORAGE"
_GROUP_BYTES = 4
_HASH_BYTES = 8


class FilesStored(msgspec.Struct, tag="BlockStored"):
    """Files are there."""

    block_hashes: list[int]
    """Of the last block of each."""
    group_idx: int
    chunk_blocks: int
    """In each file."""
    parent_block_hash: None = None
    token_ids: tuple[()] = ()
    block_size: int = 0
    lora_id: None = None
    medium: str = MEDIUM
    lora_name: None = None


class FilesRemoved(msgspec.Struct, tag="BlockRemoved"):
    """Files are gone."""

    block_hashes: list[int]
    group_idx: int
    medium: str = MEDIUM


class Inventory(msgspec.Struct, tag="AllBlocksCleared"):
    """All files that there are follow, or have been named."""

    inventory: Literal["begin", "end"]


FileEvent = FilesStored | FilesRemoved | Inventory

_encoder = msgspec.msgpack.Encoder()


def encode(events: Sequence[FileEvent], *, time_s: float) -> bytes:
    """The payload of one batch; `time_s`: Unix time."""
    return _encoder.encode((time_s, events, 0))


def by_group(keys: Iterable[bytes]) -> dict[int, list[int]]:
    """Hashes as servers write them in events, by KV-cache group, of keys of files.

    Raises InputError for what is no key: a hash of at least 8 bytes and 4 bytes of group.
    """
    groups: dict[int, list[int]] = {}
    for key in keys:
        if len(key) < _HASH_BYTES + _GROUP_BYTES:
            raise InputError(f"key: expected at least {_HASH_BYTES + _GROUP_BYTES} bytes, got {len(key)}")
        group = int.from_bytes(key[-_GROUP_BYTES:], "big")
        digest = key[-_GROUP_BYTES - _HASH_BYTES : -_GROUP_BYTES]
        groups.setdefault(group, []).append(int.from_bytes(digest, "big"))
    return groups
