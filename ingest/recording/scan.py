"""Where the blocks of a recording lie: from its index, else by walking from header to header."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from kvatlas.index.errors import RecordingError
from kvatlas.ingest.recording.format import (
    BLOCK_HEADER_BYTES,
    BLOCK_MAGIC,
    BLOCKS_MAX,
    FILE_HEADER_BYTES,
    FOOTER_BYTES,
    Block,
    BlockKind,
    FileHeader,
    unpack_block_header,
    unpack_body,
    unpack_file_header,
    unpack_footer,
    unpack_index,
)

_SEARCH_BYTES = 1 << 20


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording consists of."""

    header: FileHeader
    blocks: tuple[Block, ...]
    """In the order of the file, without the index."""
    has_index: bool
    """False after a crash, or while it is written."""
    end: int
    """Where the last of the blocks ends: one that goes on recording writes from here."""
    torn_bytes: int
    """Behind the last sound block: what a crash left half written."""
    damaged_bytes: int
    """Between sound blocks."""


def scan(fd: int, path: str) -> Layout:
    """The layout of an open recording.

    Cost: one read where there is an index, else one a block; damage is searched through for the next
    sound header. Raises RecordingError when it is no recording, or has more than `BLOCKS_MAX` blocks.
    """
    header = unpack_file_header(read_at(fd, 0, FILE_HEADER_BYTES), path)
    size = os.fstat(fd).st_size
    indexed = _from_index(fd, header, size)
    if indexed is not None:
        blocks, end = indexed
        return Layout(header=header, blocks=blocks, has_index=True, end=end, torn_bytes=0, damaged_bytes=0)
    blocks, end, reached, damaged = _walked(fd, path, header.mark, size)
    return Layout(
        header=header,
        blocks=blocks,
        has_index=False,
        end=end,
        torn_bytes=size - reached,
        damaged_bytes=damaged,
    )


def read_at(fd: int, offset: int, length: int) -> bytes:
    """So many bytes, fewer only where the file ends."""
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _from_index(fd: int, header: FileHeader, size: int) -> tuple[tuple[Block, ...], int] | None:
    """The blocks and where the index begins; None without an index that fits the file."""
    offset = unpack_footer(read_at(fd, max(size - FOOTER_BYTES, 0), FOOTER_BYTES))
    if offset is None or not FILE_HEADER_BYTES <= offset < size:
        return None
    index = _block_at(fd, header.mark, offset, size)
    if index is None or index.header.kind != BlockKind.INDEX or index.end != size:
        return None
    try:
        body = unpack_body(index.header, read_at(fd, offset + BLOCK_HEADER_BYTES, index.header.stored_bytes))
    except RecordingError:
        return None
    blocks = unpack_index(body, header.mark)
    if blocks is None or len(blocks) > BLOCKS_MAX:
        return None
    ends = [FILE_HEADER_BYTES, *(block.end for block in blocks)]
    starts = [*(block.offset for block in blocks), offset]
    if any(start < end for start, end in zip(starts, ends, strict=True)):
        return None
    return tuple(blocks), offset


def _walked(fd: int, path: str, mark: int, size: int) -> tuple[tuple[Block, ...], int, int, int]:
    """The blocks, the end of the last of them, the end of all that is sound, bytes of damage between."""
    blocks: list[Block] = []
    end = reached = FILE_HEADER_BYTES
    damaged = 0
    while (block := _next_block(fd, mark, reached, size)) is not None:
        damaged += block.offset - reached
        reached = block.end
        if block.header.kind == BlockKind.INDEX:  # of a file that was cut, or goes on behind it
            continue
        if len(blocks) == BLOCKS_MAX:
            raise RecordingError(f"{path}: expected at most {BLOCKS_MAX} blocks, got more")
        blocks.append(block)
        end = block.end
    return tuple(blocks), end, reached, damaged


def _block_at(fd: int, mark: int, offset: int, size: int) -> Block | None:
    header = unpack_block_header(read_at(fd, offset, BLOCK_HEADER_BYTES), mark)
    if header is None:
        return None
    block = Block(offset, header)
    return block if block.end <= size else None


def _next_block(fd: int, mark: int, offset: int, size: int) -> Block | None:
    """The block at this offset, else the first sound one behind it."""
    at_once = _block_at(fd, mark, offset, size)
    if at_once is not None:
        return at_once
    for candidate in _candidates(fd, offset + 1, mark):
        block = _block_at(fd, mark, candidate, size)
        if block is not None:
            return block
    return None


def _candidates(fd: int, offset: int, mark: int) -> Iterator[int]:
    """Where a block of this file may begin."""
    wanted = BLOCK_MAGIC + mark.to_bytes(4, "little")
    while piece := read_at(fd, offset, _SEARCH_BYTES):
        found = piece.find(wanted)
        while found >= 0:
            yield offset + found
            found = piece.find(wanted, found + 1)
        if len(piece) < _SEARCH_BYTES:
            return
        offset += len(piece) - len(wanted) + 1  # one may lie across the border
