"""The life of a shard's process: enlist, serve, report, go. Knows no Ray."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec

from kvatlas.actors.link.messages import refused
from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import ShardAsks, ShardOrders, ShardReport
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.actors.shard.table_files import remove_left
from kvatlas.index.errors import ConfigError

_log = logging.getLogger(__name__)


class ShardDirectory(Protocol):
    """The directory, as far as a shard knows it. Calls end within seconds."""

    def enlist(self, asks: ShardAsks) -> ShardOrders | None:
        """None: no answer."""
        ...

    def report(self, report: ShardReport) -> ShardOrders | None: ...

    def is_gone(self) -> bool:
        """Its name is not there; not: it does not answer."""
        ...


class _End(Enum):
    """Why a shard's process ends."""

    STOPPED = "it was closed"
    UNWANTED = "the directory does not want it any more"
    ABANDONED = "the directory is gone"
    SUPERSEDED = "another process holds its shard"


class ShardProcess:
    """Runs one shard on threads of its own until it is told to go. Any thread may call it.

    One thread talks with the directory; another beats, so that readers of the shared memory do not
    wait for a directory that is slow or lost.
    """

    def __init__(
        self,
        cluster: str,
        asks: ShardAsks,
        settings: ShardSettings,
        directory: ShardDirectory,
        *,
        host: str,
        goes: Callable[[], None],
        breaks: Callable[[], None],
    ) -> None:
        """`host`: where its socket listens. `goes` ends the actor for good, `breaks` only this process."""
        self._cluster = cluster
        self._asks = asks
        self._settings = settings
        self._directory = directory
        self._host = host
        self._goes = goes
        self._breaks = breaks
        self.service: ShardService | None = None
        self._server: LinkServer | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._doubts_since_s: float | None = None
        self._threads = [
            threading.Thread(target=run, name=f"shard {name}", daemon=True)
            for run, name in ((self._run, "reports"), (self._beat, "heartbeat"))
        ]
        self._threads[0].start()

    def handle(self, frame: bytes) -> bytes:
        """The answer to one frame, when it comes by a Ray call."""
        if self.service is None:
            return refused("busy: expected a shard that is enlisted, this one is starting")
        return self.service.handle(frame)

    def report(self) -> ShardReport | None:
        """How it is; None: it is not enlisted yet."""
        if self.service is None:
            return None
        if self._server is None:
            return self.service.report()
        report = self.service.report(self._server.endpoint)
        of_link = {f"link_{name}": count for name, count in self._server.statistics().items()}
        return msgspec.structs.replace(report, counts={**report.counts, **of_link})

    def report_now(self) -> None:
        """Do not wait until it is time: there are other orders."""
        self._wake.set()

    def close(self) -> None:
        """Stop, and tell readers. Twice is fine."""
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()
        if self._server is not None:
            self._server.close()
        if self.service is not None:
            self.service.close()

    def _run(self) -> None:
        try:
            end = self._live()
            if end is _End.STOPPED:
                return
            _log.info("shard %s ends: %s", self._asks.actor, end.value)
            self.close()
            # Who follows may be told to go before it opens a table, which would remove them too.
            remove_left(self._settings.shared_memory_folder, self._cluster)
            (self._breaks if end is _End.SUPERSEDED else self._goes)()
        except BaseException:
            _log.exception("the shard has failed")
            self._breaks()

    def _live(self) -> _End:
        gone = _Absence(self._settings)
        orders = None
        while orders is None:
            orders = self._directory.enlist(self._asks)
            if orders is None and gone.lasts(self._directory):
                return _End.ABANDONED
            if orders is None and self._waits_in_vain():
                return _End.STOPPED
        if orders.goes:
            return _End.UNWANTED
        self._open(orders)
        return self._serve()

    def _open(self, orders: ShardOrders) -> None:
        settings = self._settings
        service = ShardService(self._cluster, self._asks, orders.incarnation, settings)
        service.on_change = self._wake.set
        service.obey(orders)
        if settings.transport == "zmq":
            if orders.keys is None:
                raise ConfigError("shard: expected keys for its socket from the directory, got None")
            self._server = LinkServer(service.handle, orders.keys, f"tcp://{self._host}:*", settings.link)
        self.service = service
        self._threads[1].start()

    def _serve(self) -> _End:
        """Report and obey, until it is to end."""
        service, gone = self.service, _Absence(self._settings)
        assert service is not None
        while True:
            self._wake.clear()
            report, asked_s = self.report(), time.monotonic()
            assert report is not None
            orders = self._directory.report(report)
            if orders is not None:
                gone.ends()
                if orders.goes:
                    return _End.UNWANTED
                if orders.incarnation != service.address.incarnation:
                    return _End.SUPERSEDED
                service.obey(orders)
                self._trust(asked_s)
            elif gone.lasts(self._directory):
                return _End.ABANDONED
            if self._server is not None and self._server.failure is not None:
                raise self._server.failure
            if self._waits_in_vain():
                return _End.STOPPED

    def _trust(self, asked_s: float) -> None:
        """The directory has answered what it was asked then; an answer from before a pause tells nothing."""
        if self._doubts_since_s is not None and asked_s >= self._doubts_since_s:
            self._doubts_since_s = None
            assert self.service is not None
            self.service.trust()

    def _waits_in_vain(self) -> bool:
        """Wait for the next round; whether there is none."""
        self._wake.wait(self._settings.heartbeat_s)
        return self._stopping.is_set()

    def _beat(self) -> None:
        """After a long pause readers are not told that we live before the directory: we may be superseded."""
        service, settings = self.service, self._settings
        assert service is not None
        last_s = time.monotonic()
        while not self._stopping.wait(settings.heartbeat_s):
            now_s = time.monotonic()
            if now_s - last_s > settings.heartbeat_s + settings.pause_s_max:
                self._doubts_since_s = now_s
                service.doubt()
                self._wake.set()
            last_s, since_s = now_s, self._doubts_since_s
            if since_s is None or now_s - since_s > settings.directory_gone_s_max:
                service.heartbeat()


class _Absence:
    """How long the directory's name has been gone, for a shard that may not outlive it."""

    def __init__(self, settings: ShardSettings) -> None:
        self._settings = settings
        self._since_s: float | None = None

    def ends(self) -> None:
        self._since_s = None

    def lasts(self, directory: ShardDirectory) -> bool:
        """Whether it has lasted too long."""
        if not self._settings.owned or not directory.is_gone():
            self._since_s = None
            return False
        now_s = time.monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        return now_s - self._since_s >= self._settings.directory_gone_s_max
