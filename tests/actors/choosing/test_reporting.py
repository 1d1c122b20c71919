"""A router that reports: to a directory that may be gone, to subscribers that may be too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvatlas.actors.choosing.reporting import Reporting
from kvatlas.actors.choosing.reuse_feedback import ReuseFeedback
from kvatlas.actors.orders import ReuseReport, RouterOrders, RouterReport, decode, encode
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.index._native import LoadBook
from tests.actors.link.link_peers import wait_until
from tests.actors.loads.books import reserve
from tests.actors.reading.small_cluster import holding_prompt


class Desk:
    """A directory and subscribers that answer, or do not."""

    def __init__(self) -> None:
        self.reports: list[RouterReport] = []
        self.told: list[tuple[str, ReuseReport]] = []
        self.is_gone = False
        self.goes = False

    def report_router(self, report: bytes) -> bytes:
        if self.is_gone:
            raise TimeoutError("nobody is there")
        self.reports.append(decode(report, RouterReport))
        return encode(RouterOrders(goes=self.goes))

    def tell_reused(self, subscriber: str, report: bytes) -> None:
        if self.is_gone:
            raise ValueError("no such actor")
        self.told.append((subscriber, decode(report, ReuseReport)))


class Rig:
    def __init__(self, reader: ClusterReader) -> None:
        self.book, self.feedback, self.desk = LoadBook(10), ReuseFeedback(), Desk()
        self.reader = reader
        self.reporting: Reporting | None = None
        self.tidied = 0

    def _tidy(self) -> None:
        self.tidied += 1

    def begin(self) -> Reporting:
        self.reporting = Reporting(
            7, "node", self.reader, self.book, None, self.feedback, self.desk, self._tidy, report_s=0.01
        )
        return self.reporting


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    cluster = holding_prompt(tmp_path)
    reader = cluster.reader()
    reader.wait_ready(60)
    rig = Rig(reader)
    yield rig
    if rig.reporting is not None:
        rig.reporting.end()
    reader.close()
    cluster.close()


def test_the_directory_is_told_again_and_again_what_is_reserved(rig: Rig) -> None:
    reserve(rig.book, "a", "one")
    rig.begin()
    wait_until(lambda: len(rig.desk.reports) > 2)
    wait_until(lambda: rig.tidied > 2)  # what nobody mentions expires also where nobody chooses any more
    last = rig.desk.reports[-1]
    assert (last.number, last.node_id, last.requests, last.endpoint) == (7, "node", 1, "")
    assert last.cluster_id == rig.reader.secrets.cluster_id


def test_a_directory_that_is_gone_is_tried_again_and_said_so(rig: Rig) -> None:
    rig.desk.is_gone = True
    rig.feedback.note("pod-a", 0, "m", 16, 0)
    reporting = rig.begin()
    wait_until(lambda: reporting.counts["reports_lost"] > 1)
    assert reporting.said == "TimeoutError: nobody is there"
    rig.desk.is_gone = False
    wait_until(lambda: len(rig.desk.reports) > 1 and reporting.said == "")
    rig.desk.goes = True
    wait_until(lambda: "another start" in reporting.said)


def test_comparisons_go_to_the_subscriber_of_the_pod_and_are_not_sent_twice(rig: Rig) -> None:
    (pod, *_) = rig.reader.serving_pods()
    rig.feedback.note(pod, 0, "m", 16, 0)
    rig.begin()
    wait_until(lambda: len(rig.desk.reports) > 3)
    ((subscriber, report),) = rig.desk.told
    assert subscriber == rig.reader.subscriber_of(pod)
    assert report.workers[0].compared == ((16, 0),)


def test_it_ends_when_it_is_told_to(rig: Rig) -> None:
    reporting = rig.begin()
    wait_until(lambda: bool(rig.desk.reports))
    reporting.end()
    wait_until(lambda: "kvatlas-router" not in {thread.name for thread in threading.enumerate()})
