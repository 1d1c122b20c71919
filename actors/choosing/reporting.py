"""The thread by which a router reports: to the directory that it is there, to subscribers what was reused."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from kvatlas.actors.choosing.reuse_feedback import ReuseFeedback
from kvatlas.actors.loads.peers import Book
from kvatlas.actors.loads.sharing import LoadSharing
from kvatlas.actors.orders import RouterOrders, RouterReport, decode, encode
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.index.errors import KvatlasError

_REPORT_S = 1.0


class RouterDesk(Protocol):
    """Those whom a router tells something. Methods may wait for seconds and raise whatever they like."""

    def report_router(self, report: bytes) -> bytes:
        """RouterReport -> RouterOrders, of the directory."""
        ...

    def tell_reused(self, subscriber: str, report: bytes) -> None:
        """A ReuseReport for the subscriber of this name."""
        ...


class Reporting:
    """Reports once a second, from when it is made until `end` or the end of the reader's cluster.

    Each time it has requests expire that nobody mentions: others count them as long as this router does.

    A directory that is gone changes nothing, but that new routers do not hear of this one.
    """

    def __init__(
        self,
        number: int,
        node_id: str,
        reader: ClusterReader,
        book: Book,
        sharing: LoadSharing | None,
        feedback: ReuseFeedback,
        desk: RouterDesk,
        tidy: Callable[[], object],
        *,
        report_s: float = _REPORT_S,
    ) -> None:
        self.said = ""
        """Why the directory could not be told last; empty when it could."""
        self.counts: Counter[str] = Counter()
        """`reports`, `reports_lost`, `reuses_lost`."""
        self._number = number
        self._node_id = node_id
        self._reader = reader
        self._book = book
        self._sharing = sharing
        self._feedback = feedback
        self._desk = desk
        self._tidy = tidy
        self._report_s = report_s
        self._ending = threading.Event()
        threading.Thread(target=self._run, name="kvatlas-router", daemon=True).start()

    def end(self) -> None:
        """Report no more; waits for nobody. Twice is fine."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.is_set() and not self._reader.is_superseded:
            with contextlib.suppress(KvatlasError):  # there is no view of the cluster yet, or no more
                self._tidy()
            self._report()
            self._tell_reused()
            self._ending.wait(self._report_s)

    def _report(self) -> None:
        self.counts["reports"] += 1
        try:
            orders = decode(self._desk.report_router(encode(self._told())), RouterOrders)
            self.said = "the directory expected another start of the cluster" if orders.goes else ""
        except Exception as error:  # of Ray, which has many kinds: the next report says the same
            self.counts["reports_lost"] += 1
            self.said = f"{type(error).__name__}: {error}"

    def _told(self) -> RouterReport:
        sharing = None if self._sharing is None else self._sharing.statistics()
        shared = {} if sharing is None else sharing.counts
        return RouterReport(
            number=self._number,
            cluster_id=self._reader.secrets.cluster_id,
            endpoint="" if sharing is None else sharing.endpoint,
            node_id=self._node_id,
            process=os.getpid(),
            requests=int(self._book.own()[3].sum()),
            peers=0 if sharing is None else sharing.peers,
            counts=dict(self.counts) | self._feedback.statistics() | shared,
        )

    def _tell_reused(self) -> None:
        for name, report in self._feedback.take(self._reader.subscriber_of).items():
            try:
                self._desk.tell_reused(name, encode(report))
            except Exception:  # as above; what is lost are comparisons
                self.counts["reuses_lost"] += sum(len(worker.compared) for worker in report.workers)
