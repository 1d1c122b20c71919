"""A guest of a cluster: what it tells reaches shards that are new, restarted, or of another layout."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvatlas.actors.guest.cluster_index import ClusterIndex
from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import Lease, SubscriberOrders
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index.errors import ClusterError, DumpError, InputError
from kvatlas.index.shards import ShardedIndex
from kvatlas.index.view import FleetPart
from tests.actors.subscriber.shards_on_sockets import SocketShards
from tests.index.backends.telling import add, enroll, held, remove, runs
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


def test_more_leases_are_more_lanes(rig: Rig) -> None:
    orders = SubscriberOrders(session=7, lanes=(Lease(10, 20), Lease(100, 4)), workers=(Lease(0, 5),))
    rig.service.obey(orders)
    add(rig.index, 103, KEYS[:4])
    assert held(rig.index, KEYS[:4]) == [{103: GPU}] * 4
    assert rig.index.numbers.lanes_free == 24
