"""One message to a shard at a time; who comes meanwhile goes with the next; who is down is not waited for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.actors.link.link import LinkError
from kvatlas.actors.link.messages import Kind, content, decode_message, keys_of, refused
from kvatlas.actors.reading.fetcher import Fetcher, fetch_from
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index.errors import DecodeError
from tests.actors.reading.small_cluster import ShardAtHand
from tests.models.table import ADD, Record, delta

KNOWN = tuple(range(1, 200))
SETTINGS = ReaderSettings(fetch_keys_max=1 << 10, waiting_keys_max=1 << 10)


class HeldLink:
    """Asks a real shard, when it is let: one question after the other."""

    def __init__(self, shard: ShardAtHand) -> None:
        self.shard = shard
        self.asked: list[tuple[bytes, Future[bytes]]] = []
        self.is_closed = False

    def request(self, frame: bytes, timeout_s: float) -> Future[bytes]:
        future: Future[bytes] = Future()
        self.asked.append((frame, future))
        return future

    def answer(self) -> None:
        frame, future = self.asked.pop(0)
        future.set_result(self.shard.service.handle(frame))

    def fail(self) -> None:
        self.asked.pop(0)[1].set_exception(LinkError("no answer in time"))

    def keys(self) -> list[int]:
        """Of the question that waits."""
        ((frame, _),) = self.asked
        return [int(key) for key in keys_of(decode_message(frame))]

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def shard() -> Iterator[ShardAtHand]:
    made = ShardAtHand(1, 0, 100, None)
    made.tell(content(made.service.address, 1, 1, [5], delta([Record(ADD, 5, 1, KNOWN)])))
    made.service.sessions_live([1])
    yield made
    made.close()


@pytest.fixture
def link(shard: ShardAtHand) -> HeldLink:
    return HeldLink(shard)


@pytest.fixture
def fetcher(link: HeldLink) -> Fetcher:
    return Fetcher(link.shard.service.address, link, SETTINGS)


def keys(*some: int) -> npt.NDArray[np.uint64]:
    return np.array(some, np.uint64)


def test_those_who_come_while_one_asks_go_together_with_the_next(fetcher: Fetcher, link: HeldLink) -> None:
    first = fetcher.fetch(keys(1, 2))
    others = [fetcher.fetch(keys(n, n + 1000)) for n in range(3, 8)]
    assert link.keys() == [1, 2], "one message at a time"
    link.answer()
    assert first.done()
    assert len(link.keys()) == 10
    link.answer()
    for n, future in enumerate(others, 3):
        fetched = future.result(0)
        assert fetched.is_whole
        assert fetched.source().lookup(keys(n, n + 1000)) == [[(5, 1)], []]
    assert link.asked == []
    assert (fetcher.counts["fetches"], fetcher.counts["fetched_requests"]) == (2, 6)


def test_a_message_has_so_many_keys_at_most_but_for_a_single_request(
    fetcher: Fetcher, link: HeldLink
) -> None:
    large = fetcher.fetch(np.arange(5000, dtype=np.uint64))
    small = [fetcher.fetch(np.arange(300, dtype=np.uint64)) for _ in range(3)]
    assert len(link.keys()) == 5000
    link.answer()
    assert len(link.keys()) == 900
    link.answer()
    assert all(future.result(0).is_whole for future in [large, *small])


def test_beyond_the_bound_requests_fail_at_once_and_are_counted(fetcher: Fetcher, link: HeldLink) -> None:
    fetcher.fetch(keys(1))
    waiting = fetcher.fetch(np.arange(1000, dtype=np.uint64))
    refused_one = fetcher.fetch(np.arange(100, dtype=np.uint64))
    assert "wait already" in str(refused_one.exception(0))
    assert fetcher.counts["refused_fetches"] == 1
    link.answer()
    link.answer()
    assert waiting.result(0).is_whole


def test_a_failure_is_everybodys_and_nobody_waits_afterwards_until_a_probe_is_answered(
    fetcher: Fetcher, link: HeldLink
) -> None:
    asked = [fetcher.fetch(keys(n)) for n in range(1, 4)]
    link.fail()
    assert all("no answer in time" in str(future.exception(0)) for future in asked)
    assert fetcher.is_down
    assert "is down" in str(fetcher.fetch(keys(1)).exception(0))
    assert link.asked == []
    fetcher.probe()
    fetcher.probe()
    assert link.keys() == []
    link.answer()
    assert not fetcher.is_down
    again = fetcher.fetch(keys(1))
    link.answer()
    assert again.result(0).source().lookup(keys(1)) == [[(5, 1)]]


def test_an_answer_that_is_none_is_a_failure(fetcher: Fetcher, link: HeldLink) -> None:
    for answer in (b"", b"kva1 but no more", refused("too busy")):
        future = fetcher.fetch(keys(1))
        link.asked.pop(0)[1].set_result(answer)
        assert isinstance(future.exception(0), LinkError)
        fetcher.probe()
        link.answer()
    assert fetcher.counts["failed_fetches"] == 3


def test_an_excerpt_of_other_keys_is_refused_by_whoever_reads_it(fetcher: Fetcher, link: HeldLink) -> None:
    future = fetcher.fetch(keys(1, 2, 3))
    frame, asked = link.asked.pop(0)
    answer = link.shard.service.handle(frame)
    asked.set_result(answer[:-3])
    with pytest.raises(DecodeError):
        future.result(0).source()


def test_another_replica_is_asked_when_one_fails(fetcher: Fetcher, link: HeldLink) -> None:
    other_link = HeldLink(link.shard)
    other = Fetcher(link.shard.service.address, other_link, SETTINGS)
    found = fetch_from([fetcher, other], keys(7))
    link.fail()
    other_link.answer()
    fetched = found.result(0)
    assert fetched is not None
    assert fetched.source().lookup(keys(7)) == [[(5, 1)]]
    again = fetch_from([fetcher, other], keys(7))
    assert link.asked == [], "one that is down comes last"
    other_link.fail()
    assert again.result(0) is None


def test_segments_in_use_are_told_once_each(fetcher: Fetcher, link: HeldLink) -> None:
    fetcher.tell_use()
    assert link.asked == []
    fetcher.used(keys(4, 2))
    fetcher.used(keys(2))
    fetcher.tell_use()
    ((frame, _),) = link.asked
    assert decode_message(frame).kind is Kind.TOUCH
    assert link.keys() == [2, 4]
    fetcher.close()
    assert link.is_closed
