"""A chunk as an object: the bytes of a chunk file, made from a row and verified before they become one."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import (
    HEAD_BYTES,
    ChunkHead,
    chunk_key,
    copy_crc32c,
    crc32c,
    encode_head,
    file_bytes,
    read_head,
)


class ChunkForm(msgspec.Struct, frozen=True, kw_only=True):
    """What all chunks of one part of a space have in common."""

    fingerprint: bytes
    """16 bytes, of space and part."""
    row_bytes: int
    """Payload."""
    blocks: int
    writer: bytes
    """16 bytes."""

    @property
    def object_bytes(self) -> int:
        """The exact size of an object."""
        return file_bytes(self.row_bytes)

    def encode(self, key: bytes, row: npt.NDArray[np.uint8], into: npt.NDArray[np.uint8]) -> None:
        """Copies a row and its head `into` [object_bytes], zeros behind the payload."""
        crc = copy_crc32c(into.data[HEAD_BYTES : HEAD_BYTES + self.row_bytes], row.data)
        head = encode_head(
            key=key,
            fingerprint=self.fingerprint,
            payload_bytes=self.row_bytes,
            payload_crc32c=crc,
            writer=self.writer,
            written_ms=time.time_ns() // 1_000_000,
            blocks=self.blocks,
            valid_blocks=self.blocks,
        )
        into[:HEAD_BYTES] = np.frombuffer(head, np.uint8)

    def check_head(self, key: bytes, page: memoryview, size_bytes: int) -> ChunkHead:
        """Raises StoreError unless an object of this size that begins so is the key's."""
        if size_bytes != self.object_bytes or len(page) < HEAD_BYTES:
            raise StoreError(f"expected an object of {self.object_bytes} bytes, got {size_bytes}")
        head = read_head(page[:HEAD_BYTES])
        for name, expected, got in (
            ("key", key.hex(), head.key.hex()),
            ("fingerprint", self.fingerprint.hex(), head.fingerprint.hex()),
            ("payload_bytes", self.row_bytes, head.payload_bytes),
        ):
            if expected != got:
                raise StoreError(f"expected {name} {expected}, got {got}")
        return head

    def payload(self, key: bytes, content: memoryview, size_bytes: int) -> memoryview:
        """The payload [row_bytes] of a whole object. Raises StoreError unless every byte of it verifies."""
        head = self.check_head(key, content, size_bytes)
        if len(content) != size_bytes:
            raise StoreError(f"expected all {size_bytes} bytes, got {len(content)}")
        payload = content[HEAD_BYTES : HEAD_BYTES + self.row_bytes]
        crc = crc32c(payload)
        if crc != head.payload_crc32c:
            raise StoreError(f"expected a payload with checksum {head.payload_crc32c:08x}, got {crc:08x}")
        if any(content[HEAD_BYTES + self.row_bytes :]):
            raise StoreError("expected zeros behind the payload, got others")
        return payload


def key_of_path(path: str) -> bytes | None:
    """The key of a path that ends as a chunk's does, with its folder; None: another object's."""
    return chunk_key("/".join(path.rsplit("/", 2)[-2:]))
