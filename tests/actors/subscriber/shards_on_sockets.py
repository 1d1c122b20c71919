"""Shards in this process and in others, on real sockets, and a directory's view of them."""

from __future__ import annotations

from types import TracebackType

from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import ClusterView, LinkKeys, ShardAsks
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from tests.actors.link.link_peers import new_keys
from tests.actors.subscriber.shards_by_mail import Plan

SETTINGS = ShardSettings(table_bytes_max=16 << 20, shared_memory_folder="")


class SocketShard:
    """A shard in this process, reached by its socket only."""

    def __init__(self, keys: LinkKeys, layout: int, shard: int, incarnation: int) -> None:
        asks = ShardAsks(layout=layout, shard=shard, replica=0, actor=f"{incarnation}", node_id="n")
        self.service = ShardService("c", asks, incarnation, SETTINGS)
        self.server = LinkServer(self.service.handle, keys)
        self.replica = self.service.report(self.server.endpoint).replica

    def close(self) -> None:
        self.server.close()
        self.service.close()


class SocketShards:
    """One layout of shards on sockets."""

    def __init__(self, n_shards: int, *, layout: int = 1, keys: LinkKeys | None = None) -> None:
        self.keys = keys or new_keys()
        self.plan = Plan(layout, n_shards)
        self.shards: list[SocketShard] = []
        self._incarnation = 1000 * layout
        self._version = 0
        for shard in range(n_shards):
            self.shards.append(self._new(shard))
        self.plan.replicas = [shard.replica for shard in self.shards]

    def _new(self, shard: int) -> SocketShard:
        self._incarnation += 1
        return SocketShard(self.keys, self.plan.number, shard, self._incarnation)

    def restart(self, shard: int) -> None:
        """Empty, at another endpoint."""
        self.shards[shard].close()
        self.shards[shard] = self._new(shard)
        self.plan.replicas[shard] = self.shards[shard].replica

    def view(self, *sessions: int) -> ClusterView:
        self._version += 1
        return ClusterView(version=self._version, cluster="c", serving=self.plan.layout, sessions=sessions)

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    def __enter__(self) -> SocketShards:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
