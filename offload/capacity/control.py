"""The folder `control` of a store: small files by which processes and hosts agree without a server.

<root>/store.json              which store it is; never written here
<root>/control/ledger/         one file a writer: what it has written, and claims (ledger.py)
<root>/control/usage.json      what the last crawl has found (ledger.py)
<root>/control/evictor.lease   who evicts now (lease.py)
<root>/control/pins/           keys and spaces that are never deleted (pins.py)
<root>/control/removed/        what was evicted, for a space's engines to announce (notices.py)
<root>/control/trash/          files between their place and their end (evicting/deleter.py)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from pathlib import Path

from kvatlas.index.errors import StoreError

CONTROL = "control"
SMALL_FILE_BYTES_MAX = 1 << 20


class ControlFolder:
    """Paths of a store's control folder, and how its small files are read and written. Any thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / CONTROL
        self.ledger = self.folder / "ledger"
        self.pins = self.folder / "pins"
        self.trash = self.folder / "trash"
        self.usage = self.folder / "usage.json"
        self.lease = self.folder / "evictor.lease"
        self._lock = threading.Lock()
        self._device: int | None = None
        self._identity: bytes | None = None

    def prepare(self) -> None:
        """Makes the folders; never the root: a mount point without its mount is an empty folder.

        Raises StoreError where the root is not there, is another store than before, or takes no folders.
        """
        self.check()
        try:
            for one in (self.ledger, self.pins, self.trash):
                one.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: expected to make it, {error}") from error

    def check(self) -> None:
        """Raises StoreError where the root is gone, or is no longer the store that it was at first."""
        try:
            device = os.stat(self.root).st_dev
            with self._lock:
                if device == self._device:
                    return
                identity = _identity(self.root / "store.json")
                if self._device is not None and identity != self._identity:
                    raise StoreError(f"{self.root}: expected the store that it was, got another or none")
                self._device, self._identity = device, identity
        except OSError as error:
            raise StoreError(f"{self.root}: expected the folder of a store, {error}") from error

    def free_bytes(self) -> int:
        """What the file system has left for users without privileges. Raises OSError."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize


def write_small(path: Path, content: bytes) -> os.stat_result:
    """Replaces a file as a whole; returns what the file system says of the new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    try:
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(f"{temporary}: written in part")
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return found


def read_small(path: Path, bytes_max: int = SMALL_FILE_BYTES_MAX) -> bytes:
    """What a small file holds. Raises OSError; StoreError where it is no plain file, or longer than such a
    file can be.
    """
    # Not waiting at a FIFO, not following a link.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreError(f"{path}: expected a plain file, got another kind")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(bytes_max + 1)
    finally:
        os.close(descriptor)
    if len(content) > bytes_max:
        raise StoreError(f"{path}: expected at most {bytes_max} bytes, got more")
    return content


def _identity(path: Path) -> bytes:
    try:
        return read_small(path)
    except FileNotFoundError:
        return b""
