"""A recording, written: append-only, one block after the other, the index at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Sequence
from types import TracebackType

import msgspec

from kvatlas.index.errors import RecordingError
from kvatlas.ingest.recording.format import (
    BLOCKS_MAX,
    FILE_HEADER_BYTES,
    INDEX_ENTRY_BYTES,
    PLAIN_BYTES_MAX,
    Block,
    BlockHeader,
    BlockKind,
    FileHeader,
    new_mark,
    pack_block_header,
    pack_body,
    pack_file_header,
    pack_footer,
    pack_index_entry,
)
from kvatlas.ingest.recording.records import (
    LOST_BYTES,
    Session,
    Source,
    message_bytes,
    pack_lost,
    pack_message,
    pack_session,
)
from kvatlas.ingest.recording.scan import scan


class RecordingWriter:
    """Writes messages and losses into blocks, and each block into the file at once.

    A block goes to the file when it has `chunk_bytes` or is `chunk_age_s` old (`flush_if_due`, to be
    called about as often): a crash costs no more than that. With `append` a recording that exists is
    gone on with, as a new session: its index or torn tail is cut off first, damage in its middle
    stays. Sources are numbered from `first_source` on, in their order; `replay_of` counts from 0.
    It is not synced to the disk before `close`. One writer a file, one thread at a time.
    Raises RecordingError when the file cannot be written, exists (without `append`), is no recording
    or is written by another; after one in `message`, `lost` or a flush the file is whole up to the
    block before, and the writer is closed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sources: Sequence[Source],
        *,
        append: bool = False,
        chunk_bytes: int = 1 << 20,
        chunk_age_s: float = 1.0,
    ) -> None:
        self.path = os.fspath(path)
        self._chunk_bytes = min(chunk_bytes, PLAIN_BYTES_MAX)
        self._chunk_age_s = chunk_age_s
        self._records = bytearray()
        self._count = self._first_ns = self._last_ns = self._sources = 0
        self._opened_s = 0.0
        self._end = 0
        self._index = bytearray()
        self._fd = self._open(append)
        try:
            self._begin(sources)
        except OSError as error:
            self._give_up()
            raise RecordingError(f"{self.path}: cannot be written ({error.strerror})") from error
        except BaseException:
            self._give_up()
            raise

    def _open(self, append: bool) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if append else os.O_EXCL)
        try:
            fd = os.open(self.path, flags, 0o644)
        except FileExistsError as error:
            raise RecordingError(f"{self.path}: expected no such file, or to append to it") from error
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise RecordingError(f"{self.path}: another recorder is writing it") from error
        return fd

    def _begin(self, sources: Sequence[Source]) -> None:
        wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        if os.fstat(self._fd).st_size == 0:
            header = FileHeader(mark=new_mark(), wall_ns=wall_ns, monotonic_ns=monotonic_ns)
            self._write(pack_file_header(header))
            self._end = FILE_HEADER_BYTES
        else:
            header = self._resume()
        self._mark = header.mark
        # Never before the last record: the wall clock may have been set back.
        self.shift_ns = max(wall_ns - header.wall_ns, self._last_ns) - monotonic_ns
        """From the monotonic clock to time in the file."""
        self.first_source = self._sources
        session = Session(
            wall_ns=wall_ns,
            monotonic_ns=monotonic_ns,
            first_source=self._sources,
            sources=tuple(_moved(source, self._sources) for source in sources),
        )
        began_ns = monotonic_ns + self.shift_ns
        self._last_ns = began_ns
        known = self._sources + len(sources)
        self._append(BlockKind.SESSION, pack_session(session), known, began_ns, began_ns)

    def _resume(self) -> FileHeader:
        layout = scan(self._fd, self.path)
        for block in layout.blocks:
            self._index += pack_index_entry(layout.header.mark, block)
            self._last_ns = max(self._last_ns, block.header.last_ns)
            if block.header.kind == BlockKind.SESSION:
                self._sources = max(self._sources, block.header.records)
        os.ftruncate(self._fd, layout.end)
        self._end = layout.end
        return layout.header

    @property
    def file_bytes(self) -> int:
        """Written so far."""
        return self._end

    def message(self, source: int, frames: Sequence[bytes], monotonic_ns: int) -> bool:
        """Writes a message of the session's source `source`, counted from 0; False when it is too large.

        Too large is one that no block can hold: write it down as lost.
        """
        if message_bytes(frames) > PLAIN_BYTES_MAX:
            return False
        time_ns = self._start_record(message_bytes(frames), monotonic_ns)
        pack_message(self._records, time_ns, self.first_source + source, frames)
        self._end_record()
        return True

    def lost(self, source: int, messages: int, monotonic_ns: int) -> None:
        """Writes down that messages of a source are missing here."""
        time_ns = self._start_record(LOST_BYTES, monotonic_ns)
        pack_lost(self._records, time_ns, self.first_source + source, messages)
        self._end_record()

    def flush_if_due(self) -> None:
        """Writes the block begun, if it is old enough."""
        if self._count and time.monotonic() - self._opened_s >= self._chunk_age_s:
            self.flush()

    def flush(self) -> None:
        """Writes the block begun."""
        if self._count:
            body, count = bytes(self._records), self._count
            self._records.clear()
            self._count = 0
            self._append(BlockKind.RECORDS, body, count, self._first_ns, self._last_ns)

    def close(self) -> None:
        """Writes what is left and the index, and syncs. Twice is fine."""
        if self._fd < 0:
            return
        self.flush()
        self._append(BlockKind.INDEX, bytes(self._index) + pack_footer(self._end), 0, 0, 0)
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be synced ({error.strerror})") from error
        finally:
            self._give_up()

    def _start_record(self, size_bytes: int, monotonic_ns: int) -> int:
        """Makes room for a record; returns its time, which never runs backwards."""
        if self._fd < 0:
            raise RecordingError(f"{self.path}: closed")
        if len(self._records) + size_bytes > self._chunk_bytes:
            self.flush()
        time_ns = max(monotonic_ns + self.shift_ns, self._last_ns)
        if not self._count:
            self._first_ns = time_ns
            self._opened_s = time.monotonic()
        self._last_ns = time_ns
        return time_ns

    def _end_record(self) -> None:
        self._count += 1
        if len(self._records) >= self._chunk_bytes:
            self.flush()

    def _append(self, kind: BlockKind, plain: bytes, records: int, first_ns: int, last_ns: int) -> None:
        if kind is not BlockKind.INDEX and len(self._index) >= BLOCKS_MAX * INDEX_ENTRY_BYTES:
            self.close()
            raise RecordingError(f"{self.path}: expected at most {BLOCKS_MAX} blocks; begin another file")
        codec, stored = pack_body(kind, plain)
        header = BlockHeader(
            kind=kind,
            codec=codec,
            stored_bytes=len(stored),
            plain_bytes=len(plain),
            records=records,
            body_crc=zlib.crc32(stored),
            first_ns=first_ns,
            last_ns=last_ns,
        )
        block = Block(self._end, header)
        try:
            self._write(pack_block_header(self._mark, header) + stored)
        except OSError as error:
            self._take_back(block.offset)
            raise RecordingError(
                f"{self.path}: no more can be written ({error.strerror}); "
                f"it is whole up to byte {block.offset}"
            ) from error
        if kind is not BlockKind.INDEX:
            self._index += pack_index_entry(self._mark, block)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self._fd, left, self._end)
            left = left[written:]
            self._end += written

    def _take_back(self, end: int) -> None:
        """Leaves the file as it was before a write that failed, and closes it."""
        with contextlib.suppress(OSError):  # then the tail stays torn, which readers know how to take
            os.ftruncate(self._fd, end)
        self._end = end
        self._give_up()

    def _give_up(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _moved(source: Source, by: int) -> Source:
    if source.replay_of is None:
        return source
    return msgspec.structs.replace(source, replay_of=source.replay_of + by)
