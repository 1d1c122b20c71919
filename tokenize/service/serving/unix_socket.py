"""The file of a Unix socket: made with its permissions, taken over from the dead, never from the living."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from kvatlas.index.errors import ConfigError

_PROBE_S = 1.0


class UnixSocket:
    """Holds the path of a socket that somebody else binds, from `bind` to `release`. One thread.

    A file beside it, PATH.lock, is locked meanwhile and stays behind: two services that start at one
    moment would otherwise each take the other's socket for a dead one.
    """

    def __init__(self, path: str, mode: int) -> None:
        self._path = Path(path)
        self._mode = mode
        self._lock: int | None = None
        self._is_ours = False

    def bind(self, bind: Callable[[], object]) -> None:
        """Clear the path and have `bind` make the socket. Raises ConfigError where it is not free."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._clear()
            # There must be no moment at which others could connect. Umasks are of the whole process: a
            # file made meanwhile by another thread has fewer permissions, never more.
            before = os.umask(0o777 & ~self._mode)
            try:
                bind()
                self._is_ours = True
            finally:
                os.umask(before)
        except OSError as error:
            self.release()
            raise ConfigError(f"unix:{self._path}: expected to make a socket there: {error}") from error
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Call it when nobody listens any more. Twice is fine."""
        if self._lock is None:
            return
        if self._is_ours and self._is_socket():  # gRPC takes it away itself, as a rule
            self._path.unlink(missing_ok=True)
        self._is_ours = False
        os.close(self._lock)
        self._lock = None

    def _take_lock(self) -> None:
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
            raise ConfigError(f"unix:{self._path}: expected a free path, another service holds it") from error
        self._lock = lock

    def _clear(self) -> None:
        if not os.path.lexists(self._path):
            return
        if not self._is_socket():
            raise ConfigError(f"unix:{self._path}: expected a socket or nothing there, got another file")
        if self._is_served():
            raise ConfigError(f"unix:{self._path}: expected a free path, somebody listens there")
        self._path.unlink(missing_ok=True)

    def _is_socket(self) -> bool:
        try:
            return stat.S_ISSOCK(self._path.lstat().st_mode)
        except FileNotFoundError:
            return False

    def _is_served(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_S)
            try:
                probe.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:  # a full backlog, no permission: somebody is there
                return True
            return True
