"""Which servers are asked when, and what passes."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.asking import Asker
from kvatlas.ingest.discovery.config import DiscoveryLimits
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.discovery.source_query import ToldSource
from tests.ingest.discovery.told_pods import found

LIMITS = DiscoveryLimits(ask_every_s=60, ask_retry_s_min=1, ask_retry_s_max=8, pods_max=3)


class Rig:
    """An asker without threads, whose servers answer what the test says."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked: list[str] = []
        self.answers: deque[str | None] = deque()  # endpoints; None: no answer
        self.passed: list[tuple[int, DiscoveredPod]] = []
        self.asker = Asker(
            LIMITS,
            threading.RLock(),
            lambda: self.now_s,
            lambda watch, pod: self.passed.append((watch, pod)),
            self.ask,
        )

    def ask(self, url: str, _timeout_s: float, _bytes_max: int) -> tuple[ToldSource, ...]:
        self.asked.append(url)
        endpoint = self.answers.popleft()
        if endpoint is None:
            raise InputError("nobody there")
        return (ToldSource(0, endpoint, None, None),)


def by_url(pod_id: str, url: str = "http://h:8000") -> DiscoveredPod:
    return DiscoveredPod(pod=pod_id, url=url)


def test_pods_with_sources_pass_and_those_with_a_url_wait_for_its_answer() -> None:
    rig = Rig()
    assert rig.asker.replace(0, [found("a"), by_url("b")]) == [found("a")]
    assert [(pod.pod, why) for pod, why in rig.asker.waiting()] == [("b", "")]
    rig.answers.append("tcp://h:1")
    assert rig.asker.step()
    ((watch, pod),) = rig.passed
    assert (watch, pod.pod, pod.sources[0].endpoint) == (0, "b", "tcp://h:1")
    assert not rig.asker.waiting()
    assert not rig.asker.step()


def test_a_pod_named_again_passes_with_what_its_server_said() -> None:
    rig = Rig()
    rig.asker.replace(0, [by_url("b")])
    rig.answers.append("tcp://h:1")
    rig.asker.step()
    (again,) = rig.asker.change(0, [by_url("b")], [])
    assert again.sources[0].endpoint == "tcp://h:1"
    assert rig.asked == ["http://h:8000"]


def test_a_server_that_does_not_answer_is_asked_again_ever_later() -> None:
    rig = Rig()
    rig.asker.replace(0, [by_url("b")])
    times = []
    for _ in range(6):
        rig.answers.append(None)
        while not rig.asker.step():
            rig.now_s += 0.5
        times.append(rig.now_s)
    assert times == [0, 1, 3, 7, 15, 23]
    assert [why for _, why in rig.asker.waiting()] == ["nobody there"]
    assert rig.asker.counts["asks_failed"] == 6


def test_a_server_that_has_answered_is_asked_again_and_keeps_what_it_said_when_it_is_silent() -> None:
    rig = Rig()
    rig.asker.replace(0, [by_url("b")])
    rig.answers += ["tcp://h:1", None, "tcp://h:2"]
    rig.asker.step()
    rig.now_s = 60
    assert rig.asker.step()
    assert len(rig.passed) == 1
    assert not rig.asker.waiting()
    rig.now_s = 61
    assert rig.asker.step()
    assert rig.passed[-1][1].sources[0].endpoint == "tcp://h:2"


def test_an_answer_for_a_pod_that_left_or_moved_is_not_heard() -> None:
    rig = Rig()
    rig.asker.replace(0, [by_url("b")])

    def ask(url: str, _timeout_s: float, _bytes_max: int) -> tuple[ToldSource, ...]:
        rig.asker.replace(0, [by_url("b", "http://other:8000")])  # while the question is in flight
        return (ToldSource(0, "tcp://h:1", None, None),)

    rig.asker._ask = ask  # pyright: ignore[reportPrivateUsage]
    assert rig.asker.step()
    assert not rig.passed
    rig.asker._ask = rig.ask  # pyright: ignore[reportPrivateUsage]
    rig.answers.append("tcp://other:1")
    assert rig.asker.step()
    assert rig.passed[0][1].sources[0].endpoint == "tcp://other:1"
    rig.asker.change(0, [], ["b"])
    rig.now_s = 1000
    assert not rig.asker.step()


def test_pods_of_one_name_in_two_watches_are_asked_apart() -> None:
    rig = Rig()
    rig.asker.replace(0, [by_url("b", "http://one:1")])
    rig.asker.replace(1, [by_url("b", "http://two:1")])
    rig.answers += ["tcp://one:1", "tcp://two:1"]
    assert rig.asker.step() and rig.asker.step()
    assert {(watch, pod.sources[0].endpoint) for watch, pod in rig.passed} == {
        (0, "tcp://one:1"),
        (1, "tcp://two:1"),
    }


def test_questions_are_bounded() -> None:
    rig = Rig()
    rig.asker.replace(0, [by_url(name) for name in "abcde"])
    assert len(rig.asker.waiting()) == 3
    assert rig.asker.counts["asks_refused"] == 2


@pytest.mark.parametrize("count", [1, 4])
def test_its_threads_ask_and_end(count: int) -> None:
    passed = threading.Event()
    lock = threading.RLock()
    limits = DiscoveryLimits(asks_at_once=count)
    asker = Asker(
        limits,
        lock,
        lambda: 0.0,
        lambda _watch, _pod: passed.set(),
        lambda _url, _timeout_s, _bytes_max: (ToldSource(0, "tcp://h:1", None, None),),
    )
    asker.start()
    with lock:
        asker.replace(0, [by_url("a")])
    assert passed.wait(60)
    asker.stop()
    asker.stop()
    assert not any(thread.is_alive() for thread in asker._threads)  # pyright: ignore[reportPrivateUsage]
