"""The bytes of a recording: a file header, then blocks. The grammar is in docs/recording_format.md.

    file    header block*            64 bytes, then blocks without gaps
    block   header body              48 bytes, then `stored_bytes` bytes
    body    session | record* | index

A session says which sources follow and when they were opened; records are what came from them, in
blocks that are compressed one by one; the index, when there, is the last block and ends the file.
"""

from __future__ import annotations

import os
import struct
import zlib
from enum import IntEnum

import msgspec
import zstandard

from kvatlas.index.errors import RecordingError

FILE_MAGIC = b"KVATREC\n"
FORMAT_VERSION = 1
BLOCK_MAGIC = b"KVBK"
INDEX_END = b"KVATEND\n"

FILE_HEADER_BYTES = 64
BLOCK_HEADER_BYTES = 48
FOOTER_BYTES = 16
INDEX_ENTRY_BYTES = 8 + BLOCK_HEADER_BYTES - len(BLOCK_MAGIC)

PLAIN_BYTES_MAX = 128 << 20
"""Of a body, uncompressed: what a reader may have to hold."""
BLOCKS_MAX = 1 << 20
"""In a file: what bounds the index."""

_FILE_HEADER = struct.Struct("<8sHHIqq28x")
_BLOCK_HEADER = struct.Struct("<4sIBBHIIIIqq")
_CRC = struct.Struct("<I")
_OFFSET = struct.Struct("<Q")
_FOOTER = struct.Struct("<Q8s")
_LEVEL = 3
_WINDOW_BYTES_MAX = 8 << 20  # level 3 asks for 2 MiB; a file that asks for more is not ours


class BlockKind(IntEnum):
    """What a block's body is. Readers skip kinds that they do not know."""

    RECORDS = 1
    SESSION = 2
    INDEX = 3


class Codec(IntEnum):
    """How a body is stored."""

    RAW = 0
    ZSTD = 1


class FileHeader(msgspec.Struct, frozen=True, kw_only=True):
    """How a recording begins."""

    mark: int
    """32 random bits, repeated in every block: a recording inside a recording is not taken for its own."""
    wall_ns: int
    """When it began, nanoseconds since the epoch; all times in the file count from here."""
    monotonic_ns: int
    """The recorder's monotonic clock at that moment."""


class BlockHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a block without its body."""

    kind: int
    codec: int
    stored_bytes: int
    plain_bytes: int
    records: int
    """How many; of a session: the number of sources in the file up to and with it."""
    body_crc: int
    """CRC-32 of the body as stored."""
    first_ns: int
    last_ns: int
    """Of its records, since the file's beginning."""


class Block(msgspec.Struct, frozen=True):
    """Where a block lies, and its header."""

    offset: int
    header: BlockHeader

    @property
    def end(self) -> int:
        return self.offset + BLOCK_HEADER_BYTES + self.header.stored_bytes


def new_mark() -> int:
    return int.from_bytes(os.urandom(4), "little")


def pack_file_header(header: FileHeader) -> bytes:
    packed = _FILE_HEADER.pack(
        FILE_MAGIC, FORMAT_VERSION, 0, header.mark, header.wall_ns, header.monotonic_ns
    )
    return packed + _CRC.pack(zlib.crc32(packed))


def unpack_file_header(packed: bytes, path: str) -> FileHeader:
    """Raises RecordingError when these bytes do not begin a recording, or one of another version."""
    if len(packed) < FILE_HEADER_BYTES or packed[: len(FILE_MAGIC)] != FILE_MAGIC:
        raise RecordingError(
            f"{path}: expected a recording, which begins with {FILE_HEADER_BYTES} bytes and {FILE_MAGIC!r}, "
            f"got {packed[: len(FILE_MAGIC)]!r} of {len(packed)} bytes"
        )
    _, version, _, mark, wall_ns, monotonic_ns = _FILE_HEADER.unpack_from(packed)
    if version != FORMAT_VERSION:
        raise RecordingError(f"{path}: expected format version {FORMAT_VERSION}, got {version}")
    if not _is_sealed(packed[:FILE_HEADER_BYTES]):
        raise RecordingError(f"{path}: expected a file header with its checksum, got a damaged one")
    return FileHeader(mark=mark, wall_ns=wall_ns, monotonic_ns=monotonic_ns)


def pack_body(kind: int, plain: bytes) -> tuple[Codec, bytes]:
    """A body as it is stored: compressed where that makes it smaller, an index never."""
    if kind != BlockKind.INDEX:
        squeezed = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=False).compress(plain)
        if len(squeezed) < len(plain):
            return Codec.ZSTD, squeezed
    return Codec.RAW, plain


def pack_block_header(mark: int, header: BlockHeader) -> bytes:
    packed = _BLOCK_HEADER.pack(
        BLOCK_MAGIC,
        mark,
        header.kind,
        header.codec,
        0,
        header.stored_bytes,
        header.plain_bytes,
        header.records,
        header.body_crc,
        header.first_ns,
        header.last_ns,
    )
    return packed + _CRC.pack(zlib.crc32(packed))


def unpack_block_header(packed: bytes, mark: int) -> BlockHeader | None:
    """None when these bytes do not begin a block of this file, or one that could not be read."""
    if len(packed) != BLOCK_HEADER_BYTES or not _is_sealed(packed):
        return None
    magic, found, kind, codec, _, stored, plain, records, crc, first_ns, last_ns = _BLOCK_HEADER.unpack_from(
        packed
    )
    if magic != BLOCK_MAGIC or found != mark or not stored <= plain <= PLAIN_BYTES_MAX:
        return None
    return BlockHeader(
        kind=kind,
        codec=codec,
        stored_bytes=stored,
        plain_bytes=plain,
        records=records,
        body_crc=crc,
        first_ns=first_ns,
        last_ns=last_ns,
    )


def unpack_body(header: BlockHeader, stored: bytes) -> bytes:
    """The body of a block. It makes no more than `plain_bytes` of it, whatever the compressed data says.

    Raises RecordingError when it is not the one that the header describes.
    """
    if len(stored) != header.stored_bytes or zlib.crc32(stored) != header.body_crc:
        raise RecordingError(f"body: expected {header.stored_bytes} bytes with their checksum, got others")
    if header.codec == Codec.RAW:
        plain = stored
    elif header.codec == Codec.ZSTD:
        try:
            # Not decompress(): that allocates what the compressed data claims.
            with zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX).stream_reader(
                stored
            ) as stream:
                plain = stream.read(header.plain_bytes + 1)
        except zstandard.ZstdError as error:
            raise RecordingError(f"body: expected zstd data, got {error}") from error
    else:
        raise RecordingError(f"body: expected codec 0 or 1, got {header.codec}")
    if len(plain) != header.plain_bytes:
        raise RecordingError(f"body: expected {header.plain_bytes} bytes, got at least {len(plain)}")
    return plain


def pack_index_entry(mark: int, block: Block) -> bytes:
    """Without the magic: who looks for blocks in a torn index must not find their headers' copies."""
    return _OFFSET.pack(block.offset) + pack_block_header(mark, block.header)[len(BLOCK_MAGIC) :]


def pack_footer(index_offset: int) -> bytes:
    return _FOOTER.pack(index_offset, INDEX_END)


def unpack_footer(packed: bytes) -> int | None:
    """The offset of the index, None when a file that ends so has none."""
    if len(packed) != FOOTER_BYTES or packed[8:] != INDEX_END:
        return None
    offset: int = _FOOTER.unpack(packed)[0]
    return offset


def unpack_index(body: bytes, mark: int) -> list[Block] | None:
    """The blocks that an index lists, None when it lists something else."""
    entries = memoryview(body)[:-FOOTER_BYTES]
    if len(entries) % INDEX_ENTRY_BYTES:
        return None
    blocks: list[Block] = []
    for at in range(0, len(entries), INDEX_ENTRY_BYTES):
        header = unpack_block_header(BLOCK_MAGIC + bytes(entries[at + 8 : at + INDEX_ENTRY_BYTES]), mark)
        if header is None:
            return None
        blocks.append(Block(_OFFSET.unpack_from(entries, at)[0], header))
    return blocks


def _is_sealed(packed: bytes) -> bool:
    crc: int = _CRC.unpack_from(packed, len(packed) - 4)[0]
    return crc == zlib.crc32(packed[:-4])
