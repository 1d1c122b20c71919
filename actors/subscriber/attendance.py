"""A subscriber's dealings with the directory: it enlists, reports, follows views, and knows when to end.
A guest's are the same.

Thread safety: `run` in one thread; `end` from any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

from kvatlas.actors.orders import (
    ClusterView,
    SubscriberAsks,
    SubscriberOrders,
    SubscriberReport,
    decode,
    encode,
)
from kvatlas.actors.subscriber.settings import SubscriberSettings
from kvatlas.index.errors import DecodeError, KvatlasError

_RETRY_S = 0.2
_REPORT_S_MIN = 0.05

_log = logging.getLogger(__name__)


class UnreachableError(KvatlasError):
    """The directory did not answer."""


class Desk(Protocol):
    """The directory, as a subscriber sees it. Methods raise UnreachableError."""

    def enlist(self, asks: bytes) -> bytes: ...
    def report(self, report: bytes) -> bytes: ...
    def view(self, since: int, wait_s: float) -> bytes: ...
    def layouts(self, since: int, wait_s: float) -> bytes:
        """A view of what the directory knows so far, which it may still hold back from readers."""
        ...

    @property
    def is_gone(self) -> bool:
        """Its name is not known any more: it will not come back by itself."""
        ...


class Attended(Protocol):
    """What is done between two reports: a `SubscriberService`, or a guest's."""

    session: int

    def start(self, orders: SubscriberOrders) -> object: ...
    def stop(self) -> None: ...
    def obey(self, orders: SubscriberOrders) -> None: ...
    def follow(self, view: ClusterView) -> None: ...
    def report(self) -> SubscriberReport: ...
    def not_told(self) -> None: ...
    @property
    def is_settled(self) -> bool: ...
    @property
    def is_unsteady(self) -> bool: ...
    @property
    def is_fenced(self) -> bool: ...
    @property
    def failure(self) -> str | None: ...


Service = TypeVar("Service", bound=Attended)


class Ending(Enum):
    """Why a subscriber ends."""

    DISMISSED = "the directory has no work for it"
    ORPHANED = "the directory of its cluster is gone"
    FENCED = "its session is over"
    FAILED = "one of its threads has ended"
    STOPPED = "it was told to"

    @property
    def is_for_good(self) -> bool:
        """Nobody should start it again; else a new process gets a new session."""
        return self in (Ending.DISMISSED, Ending.ORPHANED, Ending.STOPPED)


class Attendance(Generic[Service]):
    """Drives one `SubscriberService`, or a guest's, by what the directory says."""

    def __init__(
        self,
        asks: SubscriberAsks,
        settings: SubscriberSettings,
        desk: Desk,
        make: Callable[[SubscriberOrders, Callable[[], object]], Service],
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make` makes the service of first orders and of what to call when its part changes."""
        self.service: Service | None = None
        self.reports_lost = 0
        """Those that the directory has not answered."""
        self._asks = asks
        self._settings = settings
        self._desk = desk
        self._make = make
        self._clock_s = clock_s
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._gone_since_s: float | None = None

    def end(self) -> None:
        """Have `run` return soon."""
        self._stopping.set()
        self._news.set()

    def report_now(self) -> None:
        """Do not wait until it is time: there are other orders. Any thread may call it."""
        self._news.set()

    def run(self) -> Ending:
        """Enlist, work, report; returns why it ends. The service is stopped then."""
        orders = self._enlist()
        if isinstance(orders, Ending):
            return orders
        self.service = service = self._make(orders, self._news.set)
        viewer = threading.Thread(
            target=self._follow_views, args=(service,), name="kvatlas-views", daemon=True
        )
        try:
            service.start(orders)
            viewer.start()
            return self._attend(service)
        finally:
            self._stopping.set()
            service.stop()

    def _enlist(self) -> SubscriberOrders | Ending:
        asks = encode(self._asks)
        while not self._stopping.is_set():
            try:
                orders = decode(self._desk.enlist(asks), SubscriberOrders)
                if not orders.goes and not orders.session:
                    raise UnreachableError("expected a session, got none")
            except (UnreachableError, DecodeError) as error:
                _log.warning("subscriber %s: not enlisted yet: %s", self._asks.name, error)
                if self._is_orphan():
                    return Ending.ORPHANED
                self._stopping.wait(_RETRY_S)
                continue
            return Ending.DISMISSED if orders.goes else orders
        return Ending.STOPPED

    def _attend(self, service: Service) -> Ending:
        while not self._stopping.is_set():
            began_s = self._clock_s()
            orders = self._report(service)
            if orders is not None and (orders.goes or orders.session != service.session):
                return Ending.DISMISSED if orders.goes else Ending.FENCED
            if orders is not None:
                service.obey(orders)
            if service.is_fenced:
                return Ending.FENCED
            if service.failure is not None:
                _log.error("subscriber %s: %s", self._asks.name, service.failure)
                return Ending.FAILED
            if self._is_orphan():
                return Ending.ORPHANED
            self._stopping.wait(_REPORT_S_MIN)
            self._news.wait(self._pause_s(service, began_s))
        return Ending.STOPPED

    def _pause_s(self, service: Service, began_s: float) -> float:
        """Until the next report; sooner where others wait for it."""
        period_s = _REPORT_S_MIN if service.is_unsteady else self._settings.report_s
        return max(0.0, began_s + period_s - self._clock_s())

    def _report(self, service: Service) -> SubscriberOrders | None:
        self._news.clear()
        try:
            orders = decode(self._desk.report(encode(service.report())), SubscriberOrders)
        except (UnreachableError, DecodeError):
            self.reports_lost += 1
            service.not_told()
            return None
        self._gone_since_s = None
        return orders

    def _follow_views(self, service: Service) -> None:
        since = 0
        while not self._stopping.is_set():
            try:
                # Nobody reads what is not settled: it need not wait until readers can be told.
                ask = self._desk.view if service.is_settled else self._desk.layouts
                view = decode(ask(since, self._settings.view_wait_s), ClusterView)
            except (UnreachableError, DecodeError) as error:
                _log.info("subscriber %s: no view: %s", self._asks.name, error)
                self._stopping.wait(_RETRY_S)
                continue
            if view.version != since:
                since = view.version
                service.follow(view)

    def _is_orphan(self) -> bool:
        """In a cluster that belongs to a driver: whether the directory has been gone for long."""
        if not self._settings.owned or not self._desk.is_gone:
            self._gone_since_s = None
            return False
        if self._gone_since_s is None:
            self._gone_since_s = self._clock_s()
        return self._clock_s() - self._gone_since_s > self._settings.directory_gone_s_max
