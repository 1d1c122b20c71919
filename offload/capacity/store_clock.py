"""The store's own clock: the one by which its file server dates files, whatever this host's clock says."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from pathlib import Path


class StoreClock:
    """Goes on from the last date that was seen on a file just written. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset_ns: int | None = None

    @property
    def is_set(self) -> bool:
        return self._offset_ns is not None

    def set(self, written_ns: int) -> None:
        """A file was written at this very moment, and the server has dated it so."""
        with self._lock:
            self._offset_ns = written_ns - time.monotonic_ns()

    def measure(self, folder: Path) -> None:
        """Writes a file, looks at its date, removes it. Raises OSError where nothing can be written."""
        path = folder / f".clock.{secrets.token_hex(8)}.tmp"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, b".")
            self.set(os.fstat(descriptor).st_mtime_ns)
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(path)

    def now_ns(self) -> int:
        """Unix time in nanoseconds. By this host's clock as long as no file was seen."""
        with self._lock:
            if self._offset_ns is None:
                return time.time_ns()
            return self._offset_ns + time.monotonic_ns()
