"""Shards of a cluster on sockets of this process, without Ray: fed and read as a guest."""

from __future__ import annotations

from kvatlas.actors.guest.cluster_index import ClusterIndex
from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import Lease, SubscriberOrders
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index.block_index import BlockIndex
from tests.actors.subscriber.shards_on_sockets import SocketShards
from tests.index.backends.harness import Exact

LANES = 65_535
PATIENT = ReaderSettings(fetch_s_max=30.0)


class _Guest(ClusterIndex):
    """Ends the shards and links with itself."""

    def __init__(self, n_shards: int) -> None:
        self._shards = SocketShards(n_shards)
        self._links = Links(self._shards.keys)
        orders = SubscriberOrders(session=1, lanes=(Lease(0, LANES),), workers=(Lease(0, 100),))
        self._guest = GuestService("guest/suite", orders, open_link=self._links.open)
        super().__init__(self._guest, self._links.open, node_id="elsewhere", timeout_s=60.0, settings=PATIENT)
        for shard in self._shards.shards:
            shard.service.sessions_live([1])
        self._guest.start(orders)
        self._guest.follow(self._shards.view(1))

    def close(self) -> None:
        super().close()
        self._guest.stop()
        self._links.close()
        self._shards.close()


class ClusterHarness(Exact):
    replaces_at_once = False
    histories = 8

    def __init__(self, n_shards: int) -> None:
        self._n_shards = n_shards

    def make(self) -> BlockIndex:
        return _Guest(self._n_shards)

    def close(self) -> None: ...
