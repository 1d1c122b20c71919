"""What a router believes of what others have reserved."""

from __future__ import annotations

from kvatlas.actors.loads.peers import PEERS_MAX, Peers
from kvatlas.actors.loads.sums import LoadRow
from kvatlas.index._native import LoadBook
from tests.actors.loads.books import PODS, frame, loads, reserve

OWN, OTHER, THIRD = 7, 8, 9


class Rig:
    def __init__(self) -> None:
        self.book = LoadBook(100)
        self.peers = Peers(self.book, OWN, silent_s_max=3.0)
        self.now_s = 100.0

    def take(self, data: bytes) -> None:
        self.peers.take(data, PODS, self.now_s)


def test_loads_of_peers_are_added_to_the_own_ones() -> None:
    rig = Rig()
    reserve(rig.book, "a", "mine")
    rig.take(frame(OTHER, 1, LoadRow("a", 0, 50.0, 60.0, 2)))
    rig.take(frame(THIRD, 1, LoadRow("b", 0, 5.0, 6.0, 1)))
    own = loads_of_own(rig.book)
    assert loads(rig.book) == {"a": (own[0] + 50, own[1] + 60, 3), "b": (5, 6, 1)}


def loads_of_own(book: LoadBook) -> tuple[float, float]:
    _, prefill, decode, _ = book.own()
    return prefill[0], decode[0]


def test_newer_sums_replace_older_ones_and_a_whole_frame_all_of_them() -> None:
    rig = Rig()
    rig.take(frame(OTHER, 1, LoadRow("a", 0, 50.0, 60.0, 2), LoadRow("b", 0, 1.0, 1.0, 1)))
    rig.take(frame(OTHER, 2, LoadRow("a", 0, 40.0, 60.0, 1)))
    assert loads(rig.book) == {"a": (40, 60, 1), "b": (1, 1, 1)}
    rig.take(frame(OTHER, 3, LoadRow("c", 0, 3.0, 3.0, 1), whole=True))
    assert loads(rig.book) == {"c": (3, 3, 1)}
    rig.take(frame(OTHER, 4, whole=True))
    assert loads(rig.book) == {}


def test_a_frame_that_comes_again_or_late_changes_nothing() -> None:
    rig = Rig()
    rig.take(frame(OTHER, 5, LoadRow("a", 0, 50.0, 0.0, 2)))
    for number in (5, 4):
        rig.take(frame(OTHER, number, LoadRow("a", 0, 999.0, 0.0, 9)))
    assert loads(rig.book) == {"a": (50, 0, 2)}
    assert rig.peers.counts["old_frames"] == 2


def test_frames_that_are_missing_are_counted_and_cost_only_time() -> None:
    rig = Rig()
    rig.take(frame(OTHER, 1, LoadRow("a", 0, 50.0, 0.0, 2)))
    rig.take(frame(OTHER, 5, LoadRow("a", 0, 10.0, 0.0, 1), whole=True))
    assert rig.peers.counts["missed_frames"] == 3
    assert loads(rig.book) == {"a": (10, 0, 1)}


def test_a_router_that_leaves_has_nothing_reserved_any_more() -> None:
    rig = Rig()
    rig.take(frame(OTHER, 1, LoadRow("a", 0, 50.0, 0.0, 2)))
    rig.take(frame(THIRD, 1, LoadRow("a", 0, 7.0, 0.0, 1)))
    rig.take(frame(OTHER, 2, whole=True, leaves=True))
    assert loads(rig.book) == {"a": (7, 0, 1)}
    assert OTHER not in rig.peers and THIRD in rig.peers


def test_a_router_that_is_silent_for_too_long_has_nothing_reserved_any_more() -> None:
    rig = Rig()
    rig.take(frame(OTHER, 1, LoadRow("a", 0, 50.0, 0.0, 2)))
    rig.now_s += 2.0
    rig.take(frame(THIRD, 1, LoadRow("b", 0, 7.0, 0.0, 1)))
    rig.peers.expire(rig.now_s)
    assert set(loads(rig.book)) == {"a", "b"}
    rig.peers.expire(rig.now_s + 1.1)
    assert set(loads(rig.book)) == {"b"}
    assert rig.peers.counts["silent"] == 1


def test_an_empty_frame_is_a_sign_of_life() -> None:
    rig = Rig()
    rig.take(frame(OTHER, 1, LoadRow("a", 0, 50.0, 0.0, 2)))
    rig.now_s += 2.9
    rig.take(frame(OTHER, 2))
    rig.peers.expire(rig.now_s + 2.9)
    assert loads(rig.book) == {"a": (50, 0, 2)}


def test_its_own_frames_and_broken_ones_are_left_out() -> None:
    rig = Rig()
    for data in (frame(OWN, 1, LoadRow("a", 0, 50.0, 0.0, 2)), b"", b"kvl1", b"kvl1\xc1", b"\0" * 1000):
        rig.take(data)
    assert loads(rig.book) == {}
    assert rig.peers.counts["bad_frames"] == 4
    assert len(rig.peers) == 0


def test_pods_that_nobody_here_knows_get_no_place_in_the_book() -> None:
    rig = Rig()
    rig.take(frame(OTHER, 1, *(LoadRow(f"stranger {n}", 0, 1.0, 1.0, 1) for n in range(100))))
    assert rig.peers.counts["unknown_rows"] == 100
    assert rig.book.name(0) is None


def test_more_routers_than_there_may_be_are_refused_and_counted() -> None:
    rig = Rig()
    for router in range(100, 100 + PEERS_MAX + 3):
        rig.take(frame(router, 1, LoadRow("a", 0, 1.0, 0.0, 1)))
    assert len(rig.peers) == PEERS_MAX
    assert rig.peers.counts["refused"] == 3
    assert loads(rig.book) == {"a": (PEERS_MAX, 0, PEERS_MAX)}
    rig.peers.drop_all()
    assert loads(rig.book) == {}
