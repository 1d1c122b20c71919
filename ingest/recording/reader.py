"""A recording, read: its sessions, and the records of each in the order of the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

import msgspec

from kvatlas.index.errors import RecordingError
from kvatlas.ingest.recording.format import BLOCK_HEADER_BYTES, Block, BlockKind, unpack_body
from kvatlas.ingest.recording.records import (
    Lost,
    Message,
    Session,
    Source,
    unpack_records,
    unpack_session,
)
from kvatlas.ingest.recording.scan import read_at, scan

_NS = 1_000_000_000


class RecordedSession(msgspec.Struct, frozen=True):
    """One run of a recorder, and where its records lie."""

    session: Session
    blocks: tuple[Block, ...]


class RecordingReader:
    """A recording on disk; also one that is torn, damaged, or written at this moment.

        with RecordingReader("kv.rec") as reader:
            for record in reader.records():
                ...

    What is read is what lay there when it was opened. Blocks whose checksum fails are passed over and
    counted in `damaged_blocks`. It holds one block at a time (at most 128 MiB) and some 200 bytes
    for each block of the file. One thread at a time.
    Raises RecordingError when the file cannot be opened or is no recording.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be opened ({error.strerror})") from error
        self._damaged: set[int] = set()
        try:
            self._layout = scan(self._fd, self.path)
            self.sessions = self._read_sessions()
        except OSError as error:  # a folder, a device
            self.close()
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error
        except BaseException:
            self.close()
            raise

    def _read_sessions(self) -> tuple[RecordedSession, ...]:
        read: list[tuple[Session, list[Block]]] = []
        for block in self._layout.blocks:
            if block.header.kind == BlockKind.SESSION:
                try:
                    session = unpack_session(self._body(block))
                except RecordingError:
                    self._damaged.add(block.offset)
                    session = Session(wall_ns=0, monotonic_ns=0, first_source=0, sources=())
                read.append((session, []))
            elif block.header.kind == BlockKind.RECORDS:
                if not read:  # damage took the session's own block
                    read.append((Session(wall_ns=0, monotonic_ns=0, first_source=0, sources=()), []))
                read[-1][1].append(block)
        return tuple(RecordedSession(session, tuple(blocks)) for session, blocks in read)

    @property
    def wall_ns(self) -> int:
        """When the recording began, nanoseconds since the epoch."""
        return self._layout.header.wall_ns

    @property
    def seconds(self) -> float:
        """From its beginning to its last record."""
        blocks = self._layout.blocks
        return max((block.header.last_ns for block in blocks), default=0) / _NS

    @property
    def sources(self) -> dict[int, Source]:
        """Of all sessions, by number."""
        return {n: source for one in self.sessions for n, source in one.session.numbered.items()}

    @property
    def has_index(self) -> bool:
        """False: it was not closed, or is written at this moment."""
        return self._layout.has_index

    @property
    def torn_bytes(self) -> int:
        """At the end: what was written half when the recorder died."""
        return self._layout.torn_bytes

    @property
    def damaged_bytes(self) -> int:
        """Between sound blocks."""
        return self._layout.damaged_bytes

    @property
    def damaged_blocks(self) -> int:
        """Found so far to be other than their checksum or their lengths say."""
        return len(self._damaged)

    @property
    def file_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def records(
        self, from_s: float = 0.0, to_s: float = float("inf"), session: RecordedSession | None = None
    ) -> Iterator[Message | Lost]:
        """The records with `from_s` <= time < `to_s`, in the order in which they came.

        Of one session, or of all. Blocks outside the time are not read.
        """
        for one in self.sessions if session is None else (session,):
            for block in one.blocks:
                if block.header.last_ns >= from_s * _NS and block.header.first_ns < to_s * _NS:
                    for record in self._records_of(block):
                        if from_s * _NS <= record.time_ns < to_s * _NS:
                            yield record

    def _records_of(self, block: Block) -> Iterator[Message | Lost]:
        try:
            yield from unpack_records(self._body(block), block.header.records)
        except RecordingError:
            self._damaged.add(block.offset)

    def _body(self, block: Block) -> bytes:
        stored = read_at(self._fd, block.offset + BLOCK_HEADER_BYTES, block.header.stored_bytes)
        return unpack_body(block.header, stored)

    def close(self) -> None:
        """Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
