"""Small files that are written once, by whoever comes first, and read by everybody."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from kvatlas.index.errors import StoreError

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def read_small(path: Path, bytes_max: int) -> bytes | None:
    """What is in a file; None: there is none. Raises StoreError: cannot be read, no plain file, or longer."""
    try:
        # Not waiting at a FIFO, not following a link.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: expected a file that can be read, got {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreError(f"{path}: expected a plain file, got another kind")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise StoreError(f"{path}: expected a file that can be read, got {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(content) > bytes_max:
        raise StoreError(f"{path}: expected at most {bytes_max} bytes, got more")
    return content


def write_once(path: Path, content: bytes) -> bytes:
    """Makes a file whole or not at all, unless there is one; returns what lies there then. Raises OSError.

    Two at once: one wins, both return the winner's. Where the file system has no links the last one wins; a
    loser can then have returned its own.
    """
    there = read_small(path, len(content) * 2 + 65536)
    if there is not None:
        return there
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _write(temporary, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    there = read_small(path, len(content) * 2 + 65536)
    if there is None:
        raise FileNotFoundError(errno.ENOENT, "removed as soon as it was written", str(path))
    return there


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a torn one would shut everybody out
