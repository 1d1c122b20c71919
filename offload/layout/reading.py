"""Reads and verifies one chunk file: for tools, and the oracle of the native reader.

Source: docs/offload_format.md.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import crc32c

PAGE_BYTES = 4096
MAGIC = b"KVCHUNK\n"
VERSION = 1
_FIELDS = struct.Struct("<8sIIQII16s16sqII128s")
_PIECE_BYTES = 1 << 20
_KEY_BYTES = range(5, 69)
_PAYLOAD_BYTES_MAX = 1 << 40


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk file says of itself."""

    key: bytes
    fingerprint: bytes
    payload_bytes: int
    payload_crc32c: int
    blocks: int
    valid_blocks: int
    writer: bytes
    written_ms: int
    """Since 1970, by the writer's clock."""


def read_head(page: bytes, where: str = "chunk file") -> Head:
    """Reads the first page. Raises StoreError, with the reason, unless it is a head of this version."""
    if len(page) < PAGE_BYTES:
        _refuse(where, f"{PAGE_BYTES} bytes of head", str(len(page)))
    page = page[:PAGE_BYTES]
    magic, version, head_bytes, payload_bytes, blocks, valid, fingerprint, writer, written, crc, n, key = (
        _FIELDS.unpack_from(page)
    )
    if magic != MAGIC:
        _refuse(where, f"the magic {MAGIC!r}", repr(magic))
    if version != VERSION:
        _refuse(where, f"version {VERSION}", str(version))
    (expected,) = struct.unpack_from("<I", page, PAGE_BYTES - 4)
    if crc32c(page[: PAGE_BYTES - 4]) != expected:
        _refuse(where, "a head with the right checksum", "a wrong one")
    if head_bytes != PAGE_BYTES:
        _refuse(where, f"head_bytes {PAGE_BYTES}", str(head_bytes))
    if not 1 <= payload_bytes <= _PAYLOAD_BYTES_MAX:
        _refuse(where, f"payload_bytes from 1 to {_PAYLOAD_BYTES_MAX}", str(payload_bytes))
    if not 1 <= valid <= blocks:
        _refuse(where, "1 to blocks valid blocks", f"{valid} of {blocks}")
    if n not in _KEY_BYTES:
        _refuse(where, f"key_bytes from {_KEY_BYTES[0]} to {_KEY_BYTES[-1]}", str(n))
    if any(key[n:]) or any(page[_FIELDS.size : PAGE_BYTES - 4]):
        _refuse(where, "zeros where nothing is defined", "others")
    return Head(
        key=key[:n],
        fingerprint=fingerprint,
        payload_bytes=payload_bytes,
        payload_crc32c=crc,
        blocks=blocks,
        valid_blocks=valid,
        writer=writer,
        written_ms=written,
    )


def check_chunk(
    path: Path,
    *,
    key: bytes | None = None,
    fingerprint: bytes | None = None,
    payload_bytes: int | None = None,
) -> Head:
    """Verifies a whole file in bounded memory; what is given must be what its head says.

    Raises StoreError with the reason, also where it cannot be read; FileNotFoundError where there is none.
    """
    with _Chunk(path, key, fingerprint, payload_bytes) as chunk:
        for _ in chunk.pieces():
            pass
        return chunk.head


def read_chunk(
    path: Path,
    *,
    key: bytes | None = None,
    fingerprint: bytes | None = None,
    payload_bytes: int | None = None,
) -> tuple[Head, bytes]:
    """As check_chunk, with the payload."""
    with _Chunk(path, key, fingerprint, payload_bytes) as chunk:
        return chunk.head, b"".join(chunk.pieces())


class _Chunk:
    """An open file whose head and size are what they should be."""

    def __init__(
        self, path: Path, key: bytes | None, fingerprint: bytes | None, payload_bytes: int | None
    ) -> None:
        self._where = str(path)
        # Not waiting at a FIFO, not following a link.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: expected a file that can be read, got {error.strerror}") from error
        try:
            self.head = self._checked_head(key, fingerprint, payload_bytes)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> _Chunk:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _checked_head(self, key: bytes | None, fingerprint: bytes | None, payload_bytes: int | None) -> Head:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            _refuse(self._where, "a plain file", "another kind")
        head = read_head(self._read(PAGE_BYTES), self._where)
        if fingerprint is not None and head.fingerprint != fingerprint:
            _refuse(self._where, f"fingerprint {fingerprint.hex()}", head.fingerprint.hex())
        if key is not None and head.key != key:
            _refuse(self._where, f"key {key.hex()}", head.key.hex())
        if payload_bytes is not None and head.payload_bytes != payload_bytes:
            _refuse(self._where, f"payload_bytes {payload_bytes}", str(head.payload_bytes))
        size = PAGE_BYTES + -(-head.payload_bytes // PAGE_BYTES) * PAGE_BYTES
        if status.st_size != size:
            _refuse(self._where, f"a file of {size} bytes", str(status.st_size))
        return head

    def pieces(self) -> Iterator[bytes]:
        crc, left = 0, self.head.payload_bytes
        while left > 0:
            piece = self._read(min(left, _PIECE_BYTES))
            if not piece:
                _refuse(self._where, f"{left} more bytes of payload", "the end of the file")
            crc = crc32c(piece, crc)
            left -= len(piece)
            yield piece
        if crc != self.head.payload_crc32c:
            _refuse(self._where, f"a payload with checksum {self.head.payload_crc32c:08x}", f"{crc:08x}")
        if any(self._read(PAGE_BYTES)):
            _refuse(self._where, "zeros behind the payload", "others")

    def _read(self, n_bytes: int) -> bytes:
        try:
            return os.read(self._descriptor, n_bytes)
        except OSError as error:
            raise StoreError(
                f"{self._where}: expected a file that can be read, got {error.strerror}"
            ) from error


def _refuse(where: str, expected: str, got: str) -> NoReturn:
    raise StoreError(f"{where}: expected {expected}, got {got}")
