"""A subscriber and a directory that comes, goes, forgets and dismisses: without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.orders import (
    ClusterView,
    Layout,
    Lease,
    Replica,
    SubscriberAsks,
    SubscriberOrders,
    SubscriberReport,
    decode,
    encode,
)
from kvatlas.actors.subscriber.attendance import Attendance, Ending, UnreachableError
from kvatlas.actors.subscriber.service import SubscriberService
from kvatlas.actors.subscriber.settings import SubscriberSettings
from kvatlas.index.errors import ConfigError
from tests.actors.link.link_peers import wait_until

ASKS = SubscriberAsks(name="0", node_id="n", actor="c/subscriber/0")
SETTINGS = SubscriberSettings(
    report_s=0.02, settle_s=0.05, view_wait_s=0.02, owned=True, directory_gone_s_max=0.05
)
ORDERS = SubscriberOrders(session=3, lanes=(Lease(0, 10),), workers=(Lease(0, 10),), hash_seed="seed")
EMPTY = Layout(number=1, n_shards=1)


class Desk:
    """A directory by hand."""

    def __init__(self) -> None:
        self.orders = ORDERS
        self.view_now = ClusterView(version=1, cluster="c", serving=EMPTY)
        self.is_gone = False
        self.answers = True
        self.reports: list[SubscriberReport] = []
        self.enlisted: list[SubscriberAsks] = []
        self.asked_since: list[int] = []
        self.asked: list[str] = []

    def enlist(self, asks: bytes) -> bytes:
        self._reach()
        self.enlisted.append(decode(asks, SubscriberAsks))
        return encode(self.orders)

    def report(self, report: bytes) -> bytes:
        self._reach()
        self.reports.append(decode(report, SubscriberReport))
        return encode(self.orders)

    def view(self, since: int, wait_s: float) -> bytes:
        self.asked.append("view")
        return self._told(since, wait_s)

    def layouts(self, since: int, wait_s: float) -> bytes:
        self.asked.append("layouts")
        return self._told(since, wait_s)

    def _told(self, since: int, wait_s: float) -> bytes:
        self._reach()
        self.asked_since.append(since)
        if self.view_now.version == since:
            threading.Event().wait(wait_s)
        return encode(self.view_now)

    def _reach(self) -> None:
        if not self.answers:
            raise UnreachableError("nobody there")


class Running:
    """An attendance in a thread."""

    def __init__(self, desk: Desk, settings: SubscriberSettings = SETTINGS) -> None:
        self.services: list[SubscriberService] = []
        self.attendance = Attendance(ASKS, settings, desk, self._make)
        self.ending: Ending | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _make(self, orders: SubscriberOrders, part_changed: Callable[[], object]) -> SubscriberService:
        service = SubscriberService("0", orders, SETTINGS, open_link=_no_link, part_changed=part_changed)
        self.services.append(service)
        return service

    def _run(self) -> None:
        self.ending = self.attendance.run()

    def ended(self) -> Ending | None:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.ending


def _no_link(replica: Replica) -> ShardLink:
    raise ConfigError(f"{replica.endpoint}: expected an endpoint")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def running(desk: Desk) -> Iterator[Running]:
    running = Running(desk)
    yield running
    running.attendance.end()
    running.ended()


def test_subscriber_enlists_reports_and_settles(desk: Desk, running: Running) -> None:
    wait_until(lambda: any(report.settled for report in desk.reports))
    assert desk.enlisted == [ASKS]
    first, *others = desk.reports
    assert first.part is not None
    assert all(report.part is None for report in others)
    assert {report.session for report in desk.reports} == {3}
    assert first.lanes_free == 10


def test_it_reports_at_once_when_asked_to(desk: Desk) -> None:
    running = Running(desk, msgspec.structs.replace(SETTINGS, report_s=3600.0))
    wait_until(lambda: any(report.settled for report in desk.reports))
    wait_until(lambda: not running.services[0].is_unsteady)
    desk.orders = msgspec.structs.replace(ORDERS, goes=True)
    running.attendance.report_now()
    assert running.ended() is Ending.DISMISSED


def test_directory_that_is_away_at_first_is_waited_for(desk: Desk) -> None:
    desk.answers = False
    running = Running(desk)
    desk.answers = True
    wait_until(lambda: bool(desk.reports))
    running.attendance.end()
    assert running.ended() is Ending.STOPPED


def test_directory_that_gives_no_session_is_asked_again(desk: Desk) -> None:
    desk.orders = SubscriberOrders()
    running = Running(desk)
    wait_until(lambda: len(desk.enlisted) > 1)
    desk.orders = ORDERS
    wait_until(lambda: bool(desk.reports))
    running.attendance.end()
    assert running.ended() is Ending.STOPPED


def test_directory_that_comes_back_is_told_everything_again(desk: Desk, running: Running) -> None:
    wait_until(lambda: any(report.settled for report in desk.reports))
    desk.answers = False
    wait_until(lambda: running.attendance.reports_lost > 1)
    told = len(desk.reports)
    desk.answers = True
    wait_until(lambda: len(desk.reports) > told)
    assert desk.reports[told].part is not None
    assert len(running.services) == 1


def test_view_is_followed_and_asked_for_by_its_version(desk: Desk, running: Running) -> None:
    replica = Replica(shard=0, replica=0, incarnation=9, node_id="n", endpoint="nonsense")
    desk.view_now = ClusterView(
        version=5, cluster="c", serving=Layout(number=1, n_shards=1, replicas=(replica,))
    )
    wait_until(lambda: 5 in desk.asked_since)
    service = running.services[0]
    wait_until(lambda: service.outbox.statistics().counts.get("unanswered", 0) > 1)
    assert service.failure is None


def test_layouts_are_asked_for_until_it_has_settled_and_views_afterwards(
    desk: Desk, running: Running
) -> None:
    wait_until(lambda: "view" in desk.asked)
    assert desk.asked[0] == "layouts" and running.services[0].is_settled
    asked = len(desk.asked)
    wait_until(lambda: len(desk.asked) > asked + 2)
    assert set(desk.asked[asked:]) == {"view"}


def test_subscriber_that_is_dismissed_ends_for_good(desk: Desk, running: Running) -> None:
    desk.orders = SubscriberOrders(session=3, goes=True)
    assert running.ended() is Ending.DISMISSED
    assert Ending.DISMISSED.is_for_good


def test_subscriber_whose_session_is_anothers_ends_to_begin_anew(desk: Desk, running: Running) -> None:
    wait_until(lambda: bool(desk.reports))
    desk.orders = SubscriberOrders()
    assert running.ended() is Ending.FENCED
    assert not Ending.FENCED.is_for_good


def test_subscriber_of_a_driver_that_is_gone_ends(desk: Desk, running: Running) -> None:
    wait_until(lambda: bool(desk.reports))
    desk.answers = False
    desk.is_gone = True
    assert running.ended() is Ending.ORPHANED


def test_subscriber_that_never_enlisted_ends_too(desk: Desk) -> None:
    desk.answers = False
    desk.is_gone = True
    assert Running(desk).ended() is Ending.ORPHANED


def test_answers_that_are_no_orders_are_as_if_none_came(desk: Desk, running: Running) -> None:
    wait_until(lambda: bool(desk.reports))
    desk.report = lambda report: b"\xc1"  # type: ignore[method-assign]
    wait_until(lambda: running.attendance.reports_lost > 1)
    assert running.ending is None


def test_thread_that_dies_ends_the_subscriber(desk: Desk, running: Running) -> None:
    wait_until(lambda: bool(running.services) and bool(desk.reports))
    mirror = running.services[0].mirror
    mirror.take = None  # type: ignore[method-assign, assignment]
    mirror.changed.set()
    assert running.ended() is Ending.FAILED
