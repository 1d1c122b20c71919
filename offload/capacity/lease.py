"""The evictor's lease: one process evicts from a store at a time, so that a file is not looked at by all.

It only saves work. Two that evict at once, because one was taken for dead, do no harm (evicting/deleter.py).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time

import msgspec

from kvatlas.index.errors import StoreError
from kvatlas.offload.capacity.control import ControlFolder, read_small
from kvatlas.offload.capacity.store_clock import StoreClock


class LeaseHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Who evicts."""

    token: str
    host: str
    process: int


class EvictorLease:
    """Takes, keeps and gives back the lease of one store. One thread at a time.

    A holder is dead when the lease is older than `dead_s` by the store's clock, or was not renewed for so
    long while we looked on: a date in the future does not keep it alive.
    """

    def __init__(self, control: ControlFolder, clock: StoreClock, holder: LeaseHolder, dead_s: float) -> None:
        self._control = control
        self._clock = clock
        self._content = msgspec.json.encode(holder)
        self._dead_ns = int(dead_s * 1e9)
        self._renew_ns = self._dead_ns // 5
        self._renewed_ns = 0
        self._seen: tuple[tuple[int, int], int] | None = None
        self.is_held = False
        self.taken_over = 0
        """Leases of dead holders that were taken."""

    def take(self) -> bool:
        """Whether it is ours now. Raises OSError."""
        if self.is_held:
            return self.renew()
        if not self._create():
            if not self._is_dead():
                return False
            self._bury()
            if not self._create():
                return False
            self.taken_over += 1
        self.is_held = True
        self._renewed_ns = time.monotonic_ns()
        return True

    def renew(self) -> bool:
        """Says that we live, not more often than needed; whether it is still ours. Raises OSError."""
        if not self.is_held or time.monotonic_ns() - self._renewed_ns < self._renew_ns:
            return self.is_held
        try:
            self.is_held = read_small(self._control.lease) == self._content
            if self.is_held:
                os.utime(self._control.lease)  # the server's time, not ours
                self._clock.set(os.stat(self._control.lease).st_mtime_ns)
                self._renewed_ns = time.monotonic_ns()
        except (FileNotFoundError, StoreError):
            self.is_held = False
        return self.is_held

    def release(self) -> None:
        """Gives it back. Raises OSError."""
        self._renewed_ns = 0
        if self.is_held and self.renew():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._control.lease)
        self.is_held = False

    def _create(self) -> bool:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            descriptor = os.open(self._control.lease, flags, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, self._content)
            self._clock.set(os.fstat(descriptor).st_mtime_ns)
        finally:
            os.close(descriptor)
        return True

    def _is_dead(self) -> bool:
        try:
            found = os.stat(self._control.lease)
        except FileNotFoundError:
            return True
        mark, now_ns = (found.st_ino, found.st_mtime_ns), time.monotonic_ns()
        if self._seen is None or self._seen[0] != mark:
            self._seen = (mark, now_ns)
            self._clock.measure(self._control.folder)
        unchanged_ns = now_ns - self._seen[1]
        return max(unchanged_ns, self._clock.now_ns() - found.st_mtime_ns) > self._dead_ns

    def _bury(self) -> None:
        """Takes the dead one's file away. Where it was another's by then, that one is put back."""
        dead = self._seen
        aside = self._control.lease.with_name(f".{self._control.lease.name}.{secrets.token_hex(4)}.tmp")
        try:
            os.rename(self._control.lease, aside)
        except FileNotFoundError:
            return
        found = os.stat(aside)
        if dead is not None and (found.st_ino, found.st_mtime_ns) != dead[0]:
            with contextlib.suppress(OSError):  # no links there, or a third one was quicker: it holds then
                os.link(aside, self._control.lease)
        os.unlink(aside)


def holder_of(control: ControlFolder) -> LeaseHolder | None:
    """Who evicts now, or did when it died. Raises OSError."""
    try:
        return msgspec.json.decode(read_small(control.lease), type=LeaseHolder)
    except (FileNotFoundError, msgspec.MsgspecError, StoreError):
        return None
