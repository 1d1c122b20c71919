"""A guest of a cluster: what it tells reaches shards that are new, restarted, or of another layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kvatlas.actors.guest.cluster_index import ClusterIndex
from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.guest.joining import check_name
from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import GUEST, Lease, SubscriberOrders
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.cluster.moving import loading
from kvatlas.cluster.standby import following
from kvatlas.index.errors import ClusterError, DumpError, InputError
from kvatlas.index.groups import Group
from kvatlas.index.shards import ShardedIndex
from kvatlas.index.view import FleetPart, WorkerView
from tests.actors.subscriber.shards_on_sockets import SocketShards
from tests.index.backends.telling import add, blocks, enroll, held, packed, remove, runs
from tests.models.table import ADD
from tests.models.world import GPU, chain

KEYS = chain(400, 1)
ORDERS = SubscriberOrders(
    session=7, hash_seed="seed", lanes=(Lease(10, 20),), workers=(Lease(0, 5),), wants_part=True
)


class Rig:
    """Shards of one session, and its index."""

    def __init__(self, n_shards: int) -> None:
        self.shards = SocketShards(n_shards)
        self.links = Links(self.shards.keys)
        self.service = GuestService("guest/g", ORDERS, open_link=self.links.open)
        self.index = self.new_index()
        self.service.start(ORDERS)
        self.show()

    def new_index(self, timeout_s: float = 30.0) -> ClusterIndex:
        return ClusterIndex(
            self.service,
            self.links.open,
            node_id="elsewhere",
            timeout_s=timeout_s,
            settings=ReaderSettings(fetch_s_max=30.0),
        )

    def show(self) -> None:
        for shard in self.shards.shards:
            shard.service.sessions_live([7])
        self.service.follow(self.shards.view(7))

    def close(self) -> None:
        self.index.close()
        self.service.stop()
        self.links.close()
        self.shards.close()


def worker(number: int, lane: int) -> WorkerView:
    return WorkerView(number=number, pod="p", rank=0, model="m", groups=(Group(lane),))


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(3)
    yield rig
    rig.close()


def test_shards_that_begin_anew_are_told_again(rig: Rig) -> None:
    enroll(rig.index, 10)
    add(rig.index, 10, KEYS)
    for shard in range(3):
        rig.shards.restart(shard)
    rig.show()
    add(rig.index, 11, KEYS[:5])
    assert held(rig.index, KEYS)[:6] == [{10: GPU, 11: GPU}] * 5 + [{10: GPU}]
    assert runs(rig.index.match(KEYS)) == {10: 400}
    assert rig.index.statistics()[0]["loads"] >= 6


def test_another_layout_is_told_all_of_it(rig: Rig) -> None:
    add(rig.index, 10, KEYS)
    remove(rig.index, 10, KEYS, first=350)
    with SocketShards(5, layout=2, keys=rig.shards.keys) as larger:
        for shard in larger.shards:
            shard.service.sessions_live([7])
        rig.service.follow(larger.view(7))
        rig.service.wait_delivered(30.0)
        assert held(rig.index, KEYS) == [{10: GPU}] * 350 + [{}] * 50
        assert all(shard.service.is_whole for shard in larger.shards)
        rig.show()


def test_lanes_that_are_not_its_own_are_refused(rig: Rig) -> None:
    for lane in (9, 30):
        with pytest.raises(InputError, match=f"leased to session 7, got {lane}"):
            add(rig.index, lane, KEYS)
        with pytest.raises(InputError):
            rig.index.remove_lane(lane)
    assert held(rig.index, KEYS[:3]) == [{}] * 3


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (FleetPart(workers=(worker(1, lane=9),)), "lanes: expected those leased to session 7, got 9"),
        (FleetPart(stores={"nfs": 0}), "lanes: expected those leased to session 7, got 0"),
        (FleetPart(workers=(worker(5, lane=10),)), "workers: expected numbers leased to session 7, got 5"),
        (FleetPart(block_sizes={"m": -3}), "block size of 'm': expected 0 to 4096, got -3"),
        (FleetPart(block_sizes={"m": 5000}), "block size of 'm': expected 0 to 4096, got 5000"),
    ],
)
def test_a_part_that_would_hide_what_others_say_is_refused(rig: Rig, part: FleetPart, said: str) -> None:
    own = FleetPart(block_sizes={"m": 16}, workers=(worker(1, lane=10),), stores={"nfs": 11})
    rig.index.set_part(own)
    with pytest.raises(InputError, match=said):
        rig.index.set_part(part)
    assert rig.service.told.part() == own


def test_a_content_is_loaded_under_lanes_of_its_own(rig: Rig) -> None:
    elsewhere = ShardedIndex(2, table_bytes_max=4 << 20)
    add(elsewhere, 300, KEYS)
    add(elsewhere, 301, KEYS[:7])
    rig.service.load(elsewhere.export(), {300: 12})
    rig.service.wait_delivered(30.0)
    assert held(rig.index, KEYS) == [{12: GPU}] * 400
    with pytest.raises(InputError):
        rig.service.load(elsewhere.export(), {300: 99})
    with pytest.raises(DumpError):
        rig.service.load([b"kvac"], {300: 12})
    assert held(rig.index, KEYS) == [{12: GPU}] * 400
    elsewhere.close()


def test_an_export_that_is_broken_off_leaves_nothing_in_the_shards(rig: Rig) -> None:
    add(rig.index, 10, KEYS)
    sections = rig.index.export()
    next(sections)
    assert [len(shard.service.exports) for shard in rig.shards.shards] == [1, 1, 1]
    sections.close()  # type: ignore[attr-defined]
    assert [len(shard.service.exports) for shard in rig.shards.shards] == [0, 0, 0]


def test_there_is_no_export_while_a_shard_is_being_filled(rig: Rig) -> None:
    add(rig.index, 10, KEYS)
    for n_tries in range(3):  # more than a shard keeps exports
        rig.shards.shards[2].service.sessions_live([7, 8])
        with pytest.raises(ClusterError, match="shard 2: expected all content in it, it is being filled"):
            next(rig.index.export())
        assert sum(len(shard.service.exports) for shard in rig.shards.shards) == 0, n_tries
    rig.shards.shards[2].service.sessions_live([7])
    assert sum(1 for _ in rig.index.export()) >= 3


def test_a_shard_that_is_gone_is_an_error_and_is_told_later(rig: Rig) -> None:
    rig.shards.shards[1].close()
    hasty = rig.new_index(timeout_s=0.3)
    with pytest.raises(ClusterError, match=r"expected answers of 3 shards within 0.3 s"):
        add(hasty, 10, KEYS)
    hasty.close()
    rig.shards.restart(1)
    rig.show()
    rig.service.wait_delivered(30.0)
    assert held(rig.index, KEYS) == [{10: GPU}] * 400


def test_a_session_that_is_over_says_so(rig: Rig) -> None:
    for shard in rig.shards.shards:
        shard.service.retire([7])
    with pytest.raises(ClusterError, match="it is over"):
        add(rig.index, 10, KEYS)
    assert rig.service.is_fenced


def test_one_that_was_stopped_says_so_and_tells_nothing(rig: Rig) -> None:
    add(rig.index, 10, KEYS[:3])
    rig.service.stop()
    calls: list[Callable[[], None]] = [
        lambda: add(rig.index, 10, KEYS),
        lambda: rig.index.remove_lane(10),
        lambda: rig.index.set_part(FleetPart()),
        lambda: rig.index.load([]),
    ]
    for call in calls:
        with pytest.raises(ClusterError, match="session 7: expected to be running, got stopped"):
            call()
    assert held(rig.index, KEYS[:4]) == [{10: GPU}] * 3 + [{}]


@pytest.mark.parametrize("name", ["dump", "followed", "follower", "a\udcff", "a\n", "n" * 201])
def test_names_that_are_taken_or_cannot_be_told_are_no_guests(name: str) -> None:
    """A guest named `dump` would end the session of what was loaded."""
    with pytest.raises(InputError, match="name: expected at most 200 printable characters"):
        check_name(name)
    assert {f"{GUEST}dump", f"{GUEST}followed"} == {loading.SESSION, following.SESSION}


def test_a_report_has_the_part_until_it_has_arrived(rig: Rig) -> None:
    assert rig.service.report().part == FleetPart()
    assert rig.service.report().part is None
    told = FleetPart(block_sizes={"m": 16})
    rig.index.set_part(told)
    assert rig.service.report().part == told
    rig.service.not_told()
    report = rig.service.report()
    assert (report.part, report.settled, report.lanes_free, report.leaves) == (told, True, 20, False)
    rig.service.leave()
    assert rig.service.report().leaves


@pytest.mark.slow
def test_a_batch_larger_than_what_may_wait_arrives(rig: Rig) -> None:
    """Beyond 64 MiB of changes the copy is sent in their place."""
    once = packed([record for lane in range(10, 30) for record in blocks(ADD, lane, KEYS)])
    rig.index.apply([once * (1 + (64 << 20) // len(once))])
    assert held(rig.index, KEYS) == [dict.fromkeys(range(10, 30), GPU)] * 400
    assert rig.index.statistics()[0]["lost"] > 0


@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_a_delta_with_a_broken_byte_tells_nothing(rig: Rig, at: int) -> None:
    good = packed(blocks(ADD, 10, KEYS[:3]))
    for broken in (good[:-1], good[:at] + b"\xff" + good[at + 1 :]):
        with pytest.raises(InputError):
            rig.index.apply([broken])
    assert held(rig.index, KEYS[:3]) == [{}] * 3


def test_more_leases_are_more_lanes(rig: Rig) -> None:
    orders = SubscriberOrders(session=7, lanes=(Lease(10, 20), Lease(100, 4)), workers=(Lease(0, 5),))
    rig.service.obey(orders)
    add(rig.index, 103, KEYS[:4])
    assert held(rig.index, KEYS[:4]) == [{103: GPU}] * 4
    assert rig.index.numbers.lanes_free == 24
