"""Recordings on disk for tests: written, read, cut and bent."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.records import Lost, Message, Source
from kvatlas.ingest.recording.writer import RecordingWriter

SOURCE = Source(endpoint="tcp://10.0.0.9:5557")
Frames = tuple[bytes, ...]
SMALL: list[Frames] = [(b"kv@pod@m", n.to_bytes(8, "big"), bytes([n]) * 30) for n in range(12)]
"""Messages that together need several blocks of 150 bytes."""


def write(
    path: Path, messages: Sequence[Frames], *, chunk_bytes: int = 1 << 20, append: bool = False
) -> None:
    """One session with one source; message n at n seconds."""
    with RecordingWriter(path, [SOURCE], chunk_bytes=chunk_bytes, append=append) as writer:
        for number, frames in enumerate(messages):
            assert writer.message(0, frames, second(writer, number))


def second(writer: RecordingWriter, number: int) -> int:
    """The monotonic time that is so many seconds into a new file."""
    return number * 1_000_000_000 - writer.shift_ns


def read(path: Path) -> list[Message | Lost]:
    with RecordingReader(path) as reader:
        return list(reader.records())


def frames_in(path: Path) -> list[Frames]:
    """Of its messages."""
    return [record.frames for record in read(path) if isinstance(record, Message)]


@contextlib.contextmanager
def file_bytes_max(size: int) -> Iterator[None]:
    """No file of this process grows beyond it meanwhile: a write fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
