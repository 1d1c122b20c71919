"""What engines' block hashes mean, from mirrors to llm-d's writers beside us."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.llmd.engine_keys import EngineKeyWriter
from kvatlas.ingest._native import DeltaLog, Mirror
from kvatlas.ingest.outlet import GatheringOutlet


class EngineKeyOutlet(GatheringOutlet):
    """As its base, and mirrors tell their engine keys, too, into a bounded log of their own."""

    def __init__(self, bytes_max: int = 64 << 20) -> None:
        super().__init__(bytes_max)
        self.engine_keys = DeltaLog(bytes_max)

    def join(self, mirror: Mirror) -> None:
        super().join(mirror)
        mirror.set_engine_keys(self.engine_keys)


class EngineKeyTelling:
    """Takes what the log has, and writes it. One thread at a time.

    Where something was lost, all mirrors tell all again, one after the other. Keys of workers that left stay
    on the server, as when llm-d clears a pod.
    """

    def __init__(
        self, log: DeltaLog, connection: RemoteConnection, mirrors: Callable[[], Iterator[Mirror]]
    ) -> None:
        """`mirrors`: those of all workers."""
        self._log = log
        self._mirrors = mirrors
        timeout_s = connection.settings.write_timeout_ms / 1000
        self._writer = EngineKeyWriter(connection, timeout_s=timeout_s)
        self._lost = log.lost
        self._again: Iterator[Mirror] | None = None
        self._records = b""

    @property
    def wrong_type(self) -> int:
        """Keys that hold something else; they stay."""
        return self._writer.wrong_type

    def forget(self) -> None:
        """The server may have lost them: all is to be told again."""
        self._again = self._mirrors()

    def take(self) -> None:
        """What is to be written next. Before the blocks of the same moment are taken, nothing changing
        meanwhile: a key goes only where nobody holds its blocks any more."""
        if self._lost != self._log.lost:
            self._lost = self._log.lost
            self.forget()
        if not self._records:
            self._records = self._log.take()
        if self._records or self._again is None:
            return
        mirror = next(self._again, None)
        if mirror is None:
            self._again = None
        else:
            mirror.tell_engine_keys()

    def write(self) -> bool:
        """After those blocks; whether there may be more. Raises RemoteIndexError: call it again, then."""
        if self._records:
            self._writer.write(self._records)
            self._records = b""
            return True
        return self._again is not None or len(self._log) > 0
