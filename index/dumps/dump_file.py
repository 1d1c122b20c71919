"""Dumps: content records with what they mean, in a file or a stream.

    dump  := magic "KVADUMP\\n" | version u32 | chunk META | chunk SECT* | chunk ENDS         little-endian
    chunk := kind 4 bytes | length u32 | crc32 u32 | length bytes

docs/dump_format.md has it byte by byte. A file appears only when it is whole; a stream is whole when
its end has been read, so whoever loads one makes nothing of it visible before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

import msgspec

from kvatlas.index._native import content_of
from kvatlas.index.dumps.meta import DumpMeta, DumpTotals
from kvatlas.index.errors import DumpError
from kvatlas.index.replacing import writing

_Decoded = TypeVar("_Decoded", DumpMeta, DumpTotals)

MAGIC = b"KVADUMP\n"
VERSION = 1
_START = struct.Struct("<8sI")
_CHUNK = struct.Struct("<4sII")
_KIND_AND_LENGTH = struct.Struct("<4sI")
_META, _SECTION, _END = b"META", b"SECT", b"ENDS"
_BYTES_MAX = {_META: 64 << 20, _SECTION: 64 << 20, _END: 4096}
"""No section takes more: index/native/section.hpp."""
_CRC_AT = 28
"""In a section."""
_READ_BYTES = 1 << 20
"""Asked for at once, so that a length that lies costs no memory."""


class DumpWriter:
    """Writes a dump to a path or a binary stream. One thread. A context manager: leaving it well finishes."""

    def __init__(self, to: str | os.PathLike[str] | BinaryIO, meta: DumpMeta) -> None:
        """Raises DumpError when it cannot be written, as `put` and `finish`."""
        self._cleanup = contextlib.ExitStack()
        self._name = str(to) if isinstance(to, (str, os.PathLike)) else "stream"
        self._totals = DumpTotals()
        self._finished = False
        with self._refusing():
            head = self._encoded(meta)
            self._file = self._opened(to)
            self._put(_START.pack(MAGIC, VERSION))
            self._write(_META, head)

    def _opened(self, to: str | os.PathLike[str] | BinaryIO) -> BinaryIO:
        if isinstance(to, (str, os.PathLike)):
            return self._cleanup.enter_context(writing(Path(to)))
        return to

    def put(self, section: bytes) -> None:
        """The next content record. Raises DumpError also for what is none."""
        content = content_of(section)
        with self._refusing():
            self._write(_SECTION, section)
        self._totals = _counted(self._totals, section, content.entries, content.pairs)

    def finish(self) -> DumpTotals:
        """Write the end; a path appears now. Nothing may be put any more."""
        if not self._finished:
            self._finished = True
            with self._refusing():
                self._write(_END, msgspec.msgpack.encode(self._totals))
                self._file.flush()
                self._cleanup.close()
        return self._totals

    def __enter__(self) -> DumpWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self._cleanup.__exit__(kind, error, trace)

    def _write(self, kind: bytes, body: bytes) -> None:
        if len(body) > _BYTES_MAX[kind]:
            raise DumpError(f"{self._name}: expected at most {_BYTES_MAX[kind]} bytes, got {len(body)}")
        self._put(_CHUNK.pack(kind, len(body), _checksum(kind, body)))
        self._put(body)

    def _put(self, body: bytes) -> None:
        """All of it: a stream without a buffer may take less than it is given, on a full disk for one."""
        left = memoryview(body)
        while left:
            taken = self._file.write(left)
            if not taken:
                raise OSError(errno.EAGAIN, "a stream that takes nothing")
            left = left[taken:]

    def _encoded(self, meta: DumpMeta) -> bytes:
        try:
            return msgspec.msgpack.encode(meta)
        except UnicodeEncodeError as error:
            told = f"{error.object!r:.200}"
            raise DumpError(f"{self._name}: expected names that are UTF-8, got {told}") from error

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DumpError) as error:
            with contextlib.suppress(OSError):  # what is left in its buffer finds no room either
                self._cleanup.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, DumpError):
                raise
            raise DumpError(f"{self._name}: expected to write a dump, got {error}") from error


def write_dump(
    to: str | os.PathLike[str] | BinaryIO, meta: DumpMeta, sections: Iterable[bytes]
) -> DumpTotals:
    """Write all of a dump. Where `sections` raise, a path stays as it was; raises as `DumpWriter`."""
    with DumpWriter(to, meta) as writer:
        for section in sections:
            writer.put(section)
        return writer.finish()


class DumpReader:
    """Reads a dump from a path or a binary stream. One thread. A context manager: leaving it closes the path.

    Iterating yields content records, each checked. Only when the iteration has come to its end is the dump
    known to be whole; it can be iterated once.
    """

    def __init__(self, of: str | os.PathLike[str] | BinaryIO) -> None:
        """Raises DumpError, saying at which byte, for what is no dump, of another version or torn."""
        self._cleanup = contextlib.ExitStack()
        is_path = isinstance(of, (str, os.PathLike))
        self._name = str(of) if is_path else "stream"
        self._must_end = is_path
        self._at = 0
        self._seen = DumpTotals()
        self.totals: DumpTotals | None = None
        """After the end of the iteration."""
        try:
            self._file: BinaryIO = self._opened(of)
            self._begin()
            self.meta: DumpMeta = self._decoded(*self._chunk(_META), DumpMeta)
        except OSError as error:
            raise DumpError(f"{self._name}: expected a dump, got {error}") from error
        except BaseException:
            self._cleanup.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        while self.totals is None:
            at, kind, body = self._next()
            if kind == _END:
                self._end(at, body)
            elif kind == _SECTION:
                yield self._section(at, body)
            else:
                raise self._unexpected(at, "a section or the end", repr(kind))

    def __enter__(self) -> DumpReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._cleanup.close()

    def _opened(self, of: str | os.PathLike[str] | BinaryIO) -> BinaryIO:
        if isinstance(of, (str, os.PathLike)):
            return self._cleanup.enter_context(Path(of).open("rb"))
        return of

    def _begin(self) -> None:
        start = self._read(_START.size)
        magic, version = _START.unpack(start) if len(start) == _START.size else (start, 0)
        if magic != MAGIC:
            raise self._unexpected(0, "a dump", f"what begins with {start[:8]!r}")
        if version != VERSION:
            raise self._unexpected(
                8, f"dump format version {VERSION}", f"{version}: another release wrote it"
            )

    def _section(self, at: int, body: bytes) -> bytes:
        try:
            content = content_of(body)
        except DumpError as error:
            raise DumpError(f"{self._name}, section at byte {at + _CHUNK.size}: {error}") from error
        self._seen = _counted(self._seen, body, content.entries, content.pairs)
        return body

    def _end(self, at: int, body: bytes) -> None:
        totals = self._decoded(at, body, DumpTotals)
        if totals != self._seen:
            raise self._unexpected(
                at, f"the end to say {self._seen}", f"{totals}: sections are missing or strange"
            )
        if self._must_end and self._file.read(1):
            raise self._unexpected(self._at, "the end of the file", "more bytes")
        self.totals = totals

    def _chunk(self, expected: bytes) -> tuple[int, bytes]:
        at, kind, body = self._next()
        if kind != expected:
            raise self._unexpected(at, f"a chunk {expected!r}", repr(kind))
        return at, body

    def _next(self) -> tuple[int, bytes, bytes]:
        """Where a chunk begins, its kind and its bytes."""
        at = self._at
        head = self._read(_CHUNK.size)
        if len(head) < _CHUNK.size:
            raise self._unexpected(at, "a chunk", "the end: the dump was cut short")
        kind, length, crc = _CHUNK.unpack(head)
        if kind not in _BYTES_MAX or length > _BYTES_MAX[kind]:
            raise self._unexpected(
                at, "a chunk of a known kind within its bounds", f"{kind!r} of {length} bytes"
            )
        body = self._read(length)
        if len(body) < length:
            raise self._unexpected(
                self._at, f"{length} bytes of a chunk", f"{len(body)}: the dump was cut short"
            )
        if _checksum(kind, body) != crc:
            raise self._unexpected(at, f"a chunk with checksum {crc}", f"{_checksum(kind, body)}")
        return at, kind, body

    def _read(self, n: int) -> bytes:
        pieces: list[bytes] = []
        try:
            while n > 0 and (piece := self._file.read(min(n, _READ_BYTES))):
                pieces.append(piece)
                n -= len(piece)
                self._at += len(piece)
        except OSError as error:
            raise DumpError(f"{self._name}, byte {self._at}: expected to read a dump, got {error}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _decoded(self, at: int, body: bytes, kind: type[_Decoded]) -> _Decoded:
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._unexpected(at, f"a {kind.__name__}", str(error)) from error

    def _unexpected(self, at: int, expected: str, got: str) -> DumpError:
        return DumpError(f"{self._name}, byte {at}: expected {expected}, got {got}")


def _checksum(kind: bytes, body: bytes) -> int:
    """A section has one of its own."""
    head = zlib.crc32(_KIND_AND_LENGTH.pack(kind, len(body)))
    return head if kind == _SECTION else zlib.crc32(body, head)


def _counted(totals: DumpTotals, section: bytes, entries: int, pairs: int) -> DumpTotals:
    return DumpTotals(
        sections=totals.sections + 1,
        entries=totals.entries + entries,
        pairs=totals.pairs + pairs,
        section_bytes=totals.section_bytes + len(section),
        checksum=zlib.crc32(section[_CRC_AT : _CRC_AT + 4], totals.checksum),
    )
